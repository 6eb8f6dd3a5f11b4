"""CPU settings change no result and no network of the user."""

from __future__ import annotations

import copy
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional

from cell2sen.backends.transformers import TransformersBackend
from cell2sen.engine.network import cpu
from cell2sen.engine.network.causal_lm import Head
from cell2sen.engine.network.cpu import is_plain_linear, linear, onednn_is_faster, use_onednn
from cell2sen.model import Model

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="a PyTorch without oneDNN")


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the calls to oneDNN, which this fixture switches on for every CPU."""
    shapes = []
    operation = cpu._onednn()

    def counted(rows, *rest):
        shapes.append(tuple(rows.shape))
        return operation(rows, *rest)

    monkeypatch.setattr(cpu, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(cpu, "_onednn", lambda: counted)
    return shapes


@needs_onednn
@pytest.mark.parametrize("shape", [(1, 512), (3, 7, 512), (0, 512), (1000, 512)])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_the_product_of_pytorch(shape, bias, calls):
    generator = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(shape, generator=generator), torch.randn((600, 512), generator=generator)
    added = torch.randn(600, generator=generator) if bias else None
    with torch.inference_mode():
        result = linear(rows, weight, added)
    assert calls == [shape]
    expected = functional.linear(rows.double(), weight.double(), None if added is None else added.double())
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-4)


@needs_onednn
def test_rows_and_weights_that_are_views(calls):
    generator = torch.Generator().manual_seed(0)
    rows, weight = torch.randn((5, 9, 512), generator=generator), torch.randn((2000, 512), generator=generator)
    with torch.inference_mode():
        for rows_part, weight_part in ((rows[:, ::2], weight), (rows[1:, 3], weight[100:900]), (rows, weight[::2])):
            result = linear(rows_part, weight_part)
            torch.testing.assert_close(result, functional.linear(rows_part, weight_part), rtol=1e-5, atol=1e-4)
    assert len(calls) == 3


@needs_onednn
@pytest.mark.parametrize("reason", ["gradients", "small", "bfloat16", "autocast", "another CPU"])
def test_other_cases_are_left_to_pytorch(reason, calls, monkeypatch):
    rows, weight = torch.ones((2, 512)), torch.ones((600, 512))
    if reason == "small":
        weight = weight[:500]
    elif reason == "bfloat16":
        rows, weight = rows.bfloat16(), weight.bfloat16()
    elif reason == "another CPU":
        monkeypatch.setattr(cpu, "onednn_is_faster", lambda: False)
    elif reason == "gradients":
        weight.requires_grad_()
    with (
        torch.set_grad_enabled(reason == "gradients"),
        torch.autocast("cpu", torch.bfloat16, enabled=reason == "autocast"),
    ):
        result = linear(rows, weight)
    assert not calls
    assert result.dtype == (torch.float32 if reason not in ("bfloat16", "autocast") else torch.bfloat16)
    assert (result == 512).all()
    if reason == "gradients":
        result.sum().backward()
        assert (weight.grad == 2).all()


def test_onednn_is_chosen_by_the_vendor_of_the_cpu(monkeypatch):
    for vendor, expected in (("GenuineIntel", False), ("", False), ("vendor_id\t: AuthenticAMD", None)):
        onednn_is_faster.cache_clear()
        monkeypatch.setattr(cpu, "_vendor", lambda vendor=vendor: vendor)
        backends = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
        assert onednn_is_faster() is (backends if expected is None else expected)
    onednn_is_faster.cache_clear()

    def gone():
        raise AttributeError("no such operation")

    monkeypatch.setattr(cpu, "_onednn", gone)
    assert not onednn_is_faster()
    onednn_is_faster.cache_clear()


class Adapted(torch.nn.Linear):
    """A layer class of another package, as in bitsandbytes and peft."""


@needs_onednn
def test_onednn_keeps_classes_weights_and_names_and_can_be_undone(calls):
    network = torch.nn.ModuleDict({"plain": torch.nn.Linear(512, 512), "adapted": Adapted(512, 512)})
    attributes = {name: dict(vars(layer)) for name, layer in network.items()}
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    use_onednn(network)
    assert is_plain_linear(network["plain"])
    assert not is_plain_linear(network["adapted"])
    assert [type(layer) for layer in network.values()] == [torch.nn.Linear, Adapted]
    assert list(network.state_dict()) == list(before)
    with torch.inference_mode():
        for copied in (network, copy.deepcopy(network)):
            output = copied["plain"](torch.ones(3, 512))
            assert calls.pop() == (3, 512)
            torch.testing.assert_close(
                output, functional.linear(torch.ones(3, 512), before["plain.weight"], before["plain.bias"])
            )
        copied["plain"].weight.zero_()
        torch.testing.assert_close(network["plain"](torch.ones(3, 512)), output)  # a copy has its own weights
        calls.clear()
        del network["plain"].forward
        assert {name: vars(layer) for name, layer in network.items()} == attributes
        network["plain"](torch.ones(3, 512))
        assert not calls


@needs_onednn
def test_a_network_of_the_user_is_not_changed(calls):
    network = tiny.network("gpt_neox", tiny.tokens("bytes").tokenizer.get_vocab_size())
    before = {name: dict(vars(module)) for name, module in network.named_modules()}
    backend = TransformersBackend(Model(name="tiny", path="tiny"), network, tiny.tokens("bytes"), progress=False)
    backend.embed(tiny.prompts(2))
    assert {name: vars(module) for name, module in network.named_modules()} == before


@needs_onednn
def test_the_output_head_uses_onednn(calls):
    class Causal:
        device = torch.device("cpu")
        vocabulary = 6000

        class network:
            embedding = torch.nn.Linear(512, 6000, bias=False)
            get_output_embeddings = classmethod(lambda cls: cls.embedding)

        @staticmethod
        def soft_capped(logits):
            return logits

    use_onednn(Causal.network.embedding)
    hidden = torch.randn(7, 512, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        result = Head(Causal, np.array([3, 5])).log_probabilities(hidden)
        expected = functional.linear(hidden.double(), Causal.network.embedding.weight.double()).log_softmax(1)[
            :, [3, 5]
        ]
    assert calls
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


# -- malloc

#: Page faults of the second half of 20 arrays of 48 MB, more than the C library keeps by default.
FAULTS = """
import resource, numpy as np
from cell2sen.engine.network.cpu import keep_freed_memory
print(keep_freed_memory())
for number in range(20):
    if number == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(6_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(**environment: str) -> tuple[str, int]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "CELL2SEN_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env={**kept, **environment}, capture_output=True, text=True, check=True
    )
    was_set, faults = done.stdout.split()
    return was_set, int(faults)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again() -> None:
    assert run()[0] == "True"
    for environment in ({"MALLOC_ARENA_MAX": "4"}, {"CELL2SEN_KEEP_MEMORY": "0"}):
        was_set, cleared = run(**environment)
        assert was_set == "False"
        assert run()[1] < cleared / 10


def test_without_the_gnu_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_", "CELL2SEN_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda _: object())
    assert cpu.keep_freed_memory() is False
