"""The transformers backend passes the contract tests and equals plain, slow forward passes of transformers."""

from __future__ import annotations

import gc
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from backend_contract import ANSWERS, BackendContract, Make
from tiny import GENES, WINDOW, prompts, with_opening

from cell2sen import backends
from cell2sen.backend import Sampling, Unsupported
from cell2sen.backends.transformers import TransformersBackend
from cell2sen.engine.decoding.guide import Guide
from cell2sen.engine.network import attention, attention_context
from cell2sen.inference.session import start
from cell2sen.model import Model, resolve
from cell2sen.prompt import Prompt

pytestmark = pytest.mark.slow

ALL = [pytest.param(pair, id="-".join(pair)) for pair in itertools.product(("gemma2", "gpt_neox"), ("spm", "bytes"))]
CELLS = prompts(5)


@pytest.fixture(scope="module", params=ALL)
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture(scope="module")
def backend(pair: tuple[str, str]) -> TransformersBackend:
    return tiny.backend(*pair)


@pytest.fixture(scope="module")
def eager(pair: tuple[str, str], backend: TransformersBackend) -> Any:
    """The same weights with transformers' eager attention."""
    return tiny.network(pair[0], backend.tokens.tokenizer.get_vocab_size(), implementation="eager")


class TestTransformers(BackendContract):
    @pytest.fixture(
        params=[
            "gemma2-spm-right",
            pytest.param("gemma2-bytes-left", marks=pytest.mark.slow),
            pytest.param("gpt_neox-spm-left", marks=pytest.mark.slow),
            pytest.param("gpt_neox-bytes-right", marks=pytest.mark.slow),
            "gpt_neox-genes-left",
        ]
    )
    def make(self, request: pytest.FixtureRequest) -> Make:
        architecture, kind, side = request.param.split("-")
        return lambda **options: tiny.backend(architecture, kind, padding_side=side, **options)


# -- compared with one prompt at a time, without padding and cache


def ids_of(backend: TransformersBackend, text: str) -> torch.Tensor:
    """Token ids of a text, with the tokenizer's own BOS."""
    return torch.tensor([backend.tokens.tokenizer.encode(text).ids])


def test_prompts_are_longer_than_the_window_and_differ_in_length(
    backend: TransformersBackend, pair: tuple[str, str]
) -> None:
    lengths = [ids_of(backend, cell.text).shape[1] for cell in CELLS]
    assert max(lengths) > 3 * WINDOW
    assert len(set(lengths)) > 4
    if pair[0] == "gemma2":
        assert backend.softcap == backend.config.attn_logit_softcapping == 4.0
        assert backend.config.layer_types[:2] == ["sliding_attention", "full_attention"]
        assert backend.config.sliding_window == WINDOW


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("layer", [-1, 0, 1, 2])
def test_embeddings_equal_hidden_states(
    backend: TransformersBackend, eager: Any, pair: tuple[str, str], layer: int, side: str
) -> None:
    sided = tiny.backend(*pair, padding_side=side, batch_size=3)
    states = []
    hook = eager.base_model.layers[1].register_forward_hook(lambda *a: states.append(a[2]))
    for pooling in ("mean", "genes", "last"):
        result = sided.embed(CELLS, layer=layer, pooling=pooling).vectors
        for cell, vector in zip(CELLS, result, strict=True):
            with torch.no_grad():
                output = eager(ids_of(backend, cell.text), output_hidden_states=True)
            state = output.hidden_states[layer]
            if layer == 2:  # transformers returns the last state after the final norm
                state = states[-1]
            [row] = backend.tokens.encode([cell])
            pooled = {"mean": slice(None), "genes": row.genes >= 0, "last": slice(-1, None)}[pooling]
            np.testing.assert_allclose(vector, state[0].numpy()[pooled].mean(0), rtol=1e-5, atol=1e-5)
    hook.remove()


def test_attention_maps_equal_eager(backend: TransformersBackend, eager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(attention.BLOCK_BYTES, "cpu", 40_000)  # a few queries at a time
    for layer in range(2):
        result = backend.embed(CELLS, attention_for=[1, 4], attention_layer=layer).attention
        for row in (1, 4):
            with torch.no_grad():
                output = eager(ids_of(backend, CELLS[row].text), output_attentions=True)
            weights = output.attentions[layer][0].numpy()
            [tokens] = backend.tokens.encode([CELLS[row]])
            n_genes = len(CELLS[row].genes)
            expected = np.zeros((weights.shape[0], n_genes, n_genes))
            for a, b in itertools.product(range(n_genes), repeat=2):
                block = weights[:, tokens.genes == a][:, :, tokens.genes == b]
                expected[:, a, b] = block.sum(axis=2).mean(axis=1)
            assert result
            assert result[row]
            np.testing.assert_allclose(result[row].array, expected, rtol=1e-4, atol=1e-6)


def test_scores_equal_a_full_forward_pass(backend: TransformersBackend, eager: Any) -> None:
    answers = [*ANSWERS, " CD4 CD44 RP11-34P13.7 MALAT1 TGFΒ1 " * 5, ".", ""]
    result = backend.score(CELLS, answers)
    for cell, row in zip(CELLS, result, strict=True):
        for answer, value in zip(answers, row, strict=True):
            ids = ids_of(backend, cell.text + answer)
            begin = ids_of(backend, cell.text).shape[1]
            assert ids[:, :begin].tolist() == ids_of(backend, cell.text).tolist()
            with torch.no_grad():
                log_shares = eager(ids).logits[0, begin - 1 : -1].double().log_softmax(-1)
            expected = log_shares.gather(1, ids[0, begin:, None]).sum()
            assert value == pytest.approx(float(expected), rel=1e-5, abs=1e-5)


def test_scores_where_prompt_and_answer_share_a_token(eager: Any, backend: TransformersBackend) -> None:
    # "MA" + "LAT1" has the tokens of MALAT1: the shared token belongs to the answer.
    cells = [
        Prompt.of_cell("Cell sentence: B2M MA", key="a"),
        Prompt.of_cell("Cell sentence: CD4 CD8A MA", key="b"),
    ]
    answers = ["LAT1", "LAT1 CD4", "\u0301x"]
    result = backend.score(cells, answers)
    for cell, row in zip(cells, result, strict=True):
        for answer, value in zip(answers, row, strict=True):
            encoding = backend.tokens.tokenizer.encode(cell.text + answer)
            begin = next(index for index, (_, stop) in enumerate(encoding.offsets) if stop > len(cell.text))
            ids = torch.tensor([encoding.ids])
            with torch.no_grad():
                log_shares = eager(ids).logits[0, :-1].double().log_softmax(-1)
            expected = log_shares.gather(1, ids[0, 1:, None])[begin - 1 :].sum()
            assert value == pytest.approx(float(expected), rel=1e-5, abs=1e-5)


def test_free_answers_equal_generate(backend: TransformersBackend, eager: Any) -> None:
    result = backend.generate(CELLS, Sampling(max_new_tokens=40))
    for cell, text in zip(CELLS, result, strict=True):
        ids = ids_of(backend, cell.text)
        settings = transformers.GenerationConfig(
            max_new_tokens=40, do_sample=False, eos_token_id=sorted(backend.eos), pad_token_id=0
        )
        output = eager.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        assert text == backend.tokens.text(output[0, ids.shape[1] :].tolist()).strip()


@pytest.mark.parametrize("kind", ["spm", "bytes", "genes"])
@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
def test_guided_answers_equal_generate_with_allowed_tokens(architecture: str, kind: str) -> None:
    backend = tiny.backend(architecture, kind, batch_size=3)
    vocabulary = backend.tokens.tokenizer.get_vocab_size()
    eager = tiny.network(architecture, vocabulary, implementation="eager")
    cells = [replace(cell, answer_genes=8 + row) for row, cell in enumerate(CELLS)]
    result = backend.generate(cells, Sampling(), genes=GENES)
    for cell, text in zip(cells, result, strict=True):
        ids = ids_of(backend, cell.text)
        guide = Guide(
            backend.generator.tries.trie(tuple(GENES), cell.text),
            [cell.answer_genes or 0],
            backend.generator.tries.ends("CD4"),
            vocabulary,
        )
        taken = [0]
        end = min(backend.eos)

        def allowed(
            _: int,
            so_far: torch.Tensor,
            guide: Guide = guide,
            n: int = ids.shape[1],
            taken: list[int] = taken,
            end: int = end,
        ) -> list[int]:
            for token in so_far[n + taken[0] :].tolist():
                guide.advance(0, token)
                taken[0] += 1
            return [end] if guide.done(0) else guide.allowed_tokens(0)

        settings = transformers.GenerationConfig(max_new_tokens=300, do_sample=False, eos_token_id=end, pad_token_id=0)
        output = eager.generate(
            ids, attention_mask=torch.ones_like(ids), generation_config=settings, prefix_allowed_tokens_fn=allowed
        )
        if not guide.done(0):  # the function is not called for the last token
            guide.advance(0, int(output[0, -1]))
        assert text.split(" ") == [GENES[gene] for gene in guide.written[0]]
        # Except the last gene: an end token may come before its last token.
        written = backend.tokens.text(output[0, ids.shape[1] :].tolist()).split()
        if kind != "genes":
            assert written[: len(text.split()) - 1] == text.split()[:-1]


# -- unnecessary work


def test_no_logits_for_embeddings_and_few_for_scores(pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    backend = tiny.backend(*pair)
    vocabulary, shapes = backend.tokens.tokenizer.get_vocab_size(), []
    original = torch.nn.functional.linear

    def watched(*arguments: Any, **named: Any) -> torch.Tensor:
        output = original(*arguments, **named)
        if output.shape[-1] == vocabulary:
            shapes.append(tuple(output.shape))
        return output

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    backend.embed(CELLS, attention_for=[2])
    backend.embed(CELLS, layer=1)
    assert shapes == []
    backend.generate(CELLS, Sampling(max_new_tokens=3))
    assert shapes
    assert all(shape in {(n, vocabulary) for n in range(1, 6)} for shape in shapes)
    shapes.clear()
    backend.score(CELLS, ANSWERS)
    # One row for each distinct prefix of an answer.
    expected = 0
    for cell in CELLS:
        texts = backend.tokens.encode([cell] * len(ANSWERS), ANSWERS)
        expected += len({tuple(text.ids[:index]) for text in texts for index in range(text.answer, len(text))})
    assert sum(shape[0] for shape in shapes) == expected
    assert all(len(shape) == 2 for shape in shapes)


@pytest.mark.parametrize("layer", [0, 1])
def test_layers_above_are_not_computed(backend: TransformersBackend, layer: int) -> None:
    run: list[int] = []
    hooks = [
        module.register_forward_hook(lambda *_, index=index: run.append(index))
        for index, module in enumerate(backend.base.layers)
    ]
    backend.embed(CELLS[:2], layer=layer)
    assert run == list(range(layer))
    run.clear()
    backend.embed(CELLS[:2])
    assert run == [0, 1]
    for hook in hooks:
        hook.remove()


def test_single_layers_need_a_known_final_norm() -> None:
    backend = tiny.backend()
    backend.base.other_norm = backend.base.final_layer_norm
    del backend.base.final_layer_norm
    with pytest.raises(Unsupported, match="cannot read single layers"):
        backend.embed(CELLS, layer=2)


def test_an_exception_leaves_no_settings(backend: TransformersBackend) -> None:
    before = backend.embed(CELLS)

    def fail(*_: Any) -> None:
        raise RuntimeError("no memory")

    hook = backend.base.layers[1].register_forward_hook(fail)
    for call in (
        lambda: backend.embed(CELLS, attention_for=[0]),
        lambda: backend.generate(CELLS, Sampling()),
        lambda: backend.score(CELLS, ANSWERS),
    ):
        with pytest.raises(RuntimeError, match="no memory"):
            call()
    hook.remove()
    assert attention_context._capture.get() is None
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    after = backend.embed(CELLS)
    assert after.attention is None
    np.testing.assert_array_equal(after.vectors, before.vectors)


# -- faults of other implementations


def test_fault_1_no_genes_of_the_control_cell_in_an_answer(backend: TransformersBackend) -> None:
    # Prompts of unequal length in one batch, where an answer must not begin within a padded prompt.
    cells = prompts(4, genes=(3, 4), seed=1) + prompts(2, genes=(39, 40), seed=2)
    backend.batch_size = None
    together = backend.generate(cells, Sampling(max_new_tokens=6))
    for cell, text in zip(cells, together, strict=True):
        assert text == backend.generate([cell], Sampling(max_new_tokens=6))[0]
        assert backend.count_tokens([text])[0] <= 6 * 4  # an invalid byte is encoded as several tokens
        assert f"{cell.genes[-1]}{cell.segments[-1]}" not in text


@pytest.mark.parametrize("side", ["left", "right"])
def test_fault_2_last_token_and_mean_ignore_padding(pair: tuple[str, str], side: str) -> None:
    backend = tiny.backend(*pair, padding_side=side)
    for pooling in ("last", "mean", "genes"):
        together = backend.embed(CELLS, pooling=pooling).vectors
        alone = np.concatenate([backend.embed([cell], pooling=pooling).vectors for cell in CELLS])
        np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_fault_3_gemma_keeps_its_soft_caps(tmp_path: Path) -> None:
    backend = backends.load(resolve(tiny.save(tmp_path, "gemma2", "spm"), dtype="float32"), progress=False)
    assert backend.softcap == 4.0
    uncapped = tiny.backend("gemma2", "spm")
    for layer in uncapped.base.layers:
        layer.self_attn.attn_logit_softcapping = None
    gap = np.abs(backend.embed(CELLS).vectors - uncapped.embed(CELLS).vectors)
    assert gap.max() > 0.1
    uncapped = tiny.backend("gemma2", "spm")
    uncapped.config.final_logit_softcapping = None
    assert np.abs(backend.score(CELLS, ANSWERS) - uncapped.score(CELLS, ANSWERS)).max() > 0.1


def test_fault_4_memory_of_an_embedding_does_not_grow_with_the_vocabulary() -> None:
    # No tensor as large as the logits is ever alive.
    backend = tiny.backend("gpt_neox", "bytes", batch_size=7)
    vocabulary = backend.tokens.tokenizer.get_vocab_size()
    sizes: list[int] = []

    def watch(*_: Any) -> None:
        tensors = (item for item in gc.get_objects() if type(item) is torch.Tensor)
        sizes.extend(tensor.numel() for tensor in tensors if tensor.dim() == 3 and tensor.shape[-1] == vocabulary)

    hook = backend.base.final_layer_norm.register_forward_hook(watch)
    backend.embed(CELLS)
    hook.remove()
    assert sizes == []


def test_fault_10_bos_exactly_once() -> None:
    backend = tiny.backend("gemma2", "spm")
    bos = backend.tokens.bos
    assert bos is not None
    for cell in (CELLS[0], with_opening(CELLS[0], f"<bos>{CELLS[0].segments[0]}")):
        [alone], [joined] = backend.tokens.encode([cell]), backend.tokens.encode([cell], [" T cell."])
        for row in (alone, joined):
            assert row.ids[0] == bos
            assert (row.ids == bos).sum() == 1
        assert joined.ids[: joined.answer].tolist() == alone.ids.tolist()
    literal = with_opening(CELLS[0], f"<bos>{CELLS[0].segments[0]}")
    np.testing.assert_array_equal(backend.embed([literal]).vectors, backend.embed([CELLS[0]]).vectors)
    np.testing.assert_array_equal(backend.score([literal], ANSWERS), backend.score([CELLS[0]], ANSWERS))


# -- stop strings and end tokens


def force(backend: TransformersBackend, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the logits, so that the model writes this text and then repeats `CD4`."""
    ids = backend.tokens.ids([text + " CD4" * 20])[0]
    step = iter(ids)

    def head(hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(hidden.shape[0], backend.causal.vocabulary)
        logits[:, next(step)] = 9.0
        return logits

    monkeypatch.setattr(backend.causal, "logits", head)


@pytest.mark.parametrize("special", [False, True])
def test_a_stop_string_that_is_a_token(special: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = tiny.backend("gemma2", "spm")
    if special:
        backend.tokens.tokenizer.add_special_tokens(["<ctrl100>"])
    backend.model = replace(backend.model, stop=("<ctrl100>",))
    force(backend, " T cell.<ctrl100> B", monkeypatch)
    assert backend.generate(CELLS[:2], Sampling(max_new_tokens=30)) == ["T cell."] * 2


def test_a_stop_string_over_several_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = tiny.backend("gpt_neox", "bytes")
    force(backend, " NK cell, human. CD8A", monkeypatch)
    assert backend.generate(CELLS[:1], Sampling(max_new_tokens=30, stop=(", human",))) == ["NK cell"]


def test_end_of_text_ends_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = tiny.backend("gpt_neox", "bytes")
    force(backend, " T cell.<|endoftext|> B", monkeypatch)
    assert backend.generate(CELLS[:2], Sampling(max_new_tokens=30)) == ["T cell."] * 2


def test_generation_settings_in_the_checkpoint_change_nothing(tmp_path: Path) -> None:
    expected = tiny.backend().generate(CELLS, Sampling(max_new_tokens=12))
    folder = tiny.save(tmp_path)
    (folder / "generation_config.json").write_text(
        json.dumps(
            {
                "do_sample": True,
                "temperature": 3.0,
                "repetition_penalty": 5.0,
                "min_new_tokens": 9,
                "eos_token_id": [0, 300],
            }
        )
    )
    backend: Any = backends.load(resolve(folder, dtype="float32"), progress=False)
    assert backend.eos == {0, 300}
    assert backend.generate(CELLS, Sampling(max_new_tokens=12)) == expected


# -- prompts and gene lists that raise


def test_genes_that_cannot_be_written() -> None:
    backend = tiny.backend("gpt_neox", "genes")
    assert backend.known_genes(["CD4", "XYZ1", "CD44"]).tolist() == [True, False, True]
    with pytest.raises(ValueError, match=r"cannot write 1 of 2 genes, such as \['XYZ1'\]; leave them out"):
        backend.generate([replace(CELLS[0], answer_genes=1)], Sampling(), genes=["CD4", "XYZ1"] * 9)


def test_a_guided_prompt_must_not_end_in_whitespace() -> None:
    with pytest.raises(ValueError, match="must not end in whitespace"):
        tiny.backend().generate(
            [replace(CELLS[0], segments=(*CELLS[0].segments[:-1], ". \n"))], Sampling(), genes=GENES
        )


def test_an_empty_prompt() -> None:
    with pytest.raises(ValueError, match=r"prompts without any text: \['nobody'\]"):
        tiny.backend().embed([Prompt.of_cell("", key="nobody")])
    with pytest.raises(ValueError, match=r"\['nobody'\] have no token before the answer"):
        tiny.backend().score([Prompt.of_cell("", key="nobody")], [" B"])


# -- networks that raise


def test_an_unsupported_output_head() -> None:
    backend = tiny.tokens("bytes")
    network = tiny.network("gpt_neox", backend.tokenizer.get_vocab_size())
    network.config.model_type = "other"
    TransformersBackend(Model(name="plain", path="x"), network, backend)
    original = network.forward

    def scaled(**named: Any) -> Any:
        output = original(**named)
        output.logits = output.logits * 0.5
        return output

    network.forward = scaled
    with pytest.raises(ValueError, match="output head of 'other' is not supported"):
        TransformersBackend(Model(name="scaled", path="x"), network, backend)


def test_another_attention_raises() -> None:
    backend = tiny.tokens("bytes")
    network = tiny.network("gpt_neox", backend.tokenizer.get_vocab_size(), implementation="sdpa")
    with pytest.raises(ValueError, match="attn_implementation='cell2sen'"):
        TransformersBackend(Model(name="x", path="x"), network, backend)


def test_a_device_that_is_not_there_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, words in (("cuda", "finds no CUDA GPU"), ("cuda:1", "finds no CUDA GPU"), ("gpu", "no device 'gpu'")):
        with pytest.raises(ValueError, match=words):
            backends.check_device(device)
        with pytest.raises(ValueError, match=words):
            start("no_such_file.h5ad", "embed", {"device": device})
    backends.check_device("cpu")
    with pytest.raises(ValueError, match="no backend 'nothing'"):
        backends.check_device("cuda", "nothing")
