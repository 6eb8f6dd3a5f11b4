"""The openai backend passes the contract on servers with several habits, and equals the transformers backend there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tiny
from backend_contract import ANSWERS, Make
from completions_server import FakeServer, serving
from served_contract import ServedContract
from tiny import GENES, prompts

from cell2sen import backends
from cell2sen.backend import Backend, Sampling, Unsupported
from cell2sen.engine.serving.completions import CompletionsBackend
from cell2sen.model import Model

CELLS = prompts(4)
Serve = Callable[..., tuple[FakeServer, CompletionsBackend]]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Directories of tiny checkpoints without weights: the server has those."""

    def save(architecture: str, kind: str) -> Path:
        place = tmp_path_factory.getbasetemp() / f"served-{architecture}-{kind}"
        if not place.is_dir():
            place.mkdir()
            tiny.save(place, architecture, kind)
            for weights in place.glob("*.safetensors"):
                weights.unlink()
        return place

    return save


@pytest.fixture
def serve(folder: Callable[[str, str], Path]) -> Iterator[Serve]:
    """Function that starts a server and loads a backend of its model."""
    with contextlib.ExitStack() as running:

        def start(**habits: Any) -> tuple[FakeServer, CompletionsBackend]:
            fake = running.enter_context(serving(FakeServer(**habits)))
            model = Model(name="tiny", path=str(folder(fake.architecture, fake.kind)), dtype="float32")
            backend = backends.load(model, "openai", url=fake.url, progress=False)
            assert isinstance(backend, CompletionsBackend)
            return fake, backend

        yield start


@pytest.mark.slow
class TestLikeVLLM(ServedContract):
    habits: ClassVar[dict[str, Any]] = {"architecture": "gemma2", "kind": "spm", "guide": True}

    @pytest.fixture
    def make(self, serve: Serve) -> Make:
        _, first = serve(**self.habits)

        def make(**options: Any) -> Backend:
            backend: Any = backends.load(first.model, "openai", url=first.server.url, **{"progress": False} | options)
            backend._record["vectors"] = ""  # without the warning, which is tested below
            return backend

        return make


class TestByLogitBias(TestLikeVLLM):
    habits: ClassVar[dict[str, Any]] = {"strict": True, "replies": "names"}


# -- compared with the same model in this process


@pytest.mark.parametrize(
    "habits",
    [
        {"guide": True, "architecture": "gemma2", "kind": "spm"},
        {"replies": "token_ids"},
        {"replies": "content"},
        {"replies": "names", "strict": True},
    ],
    ids=["guide", "token_ids", "content", "strict"],
)
def test_equals_the_transformers_backend(serve: Serve, habits: dict[str, Any]) -> None:
    fake, backend = serve(**habits)
    own = tiny.backend(fake.architecture, fake.kind)
    np.testing.assert_allclose(backend.embed(CELLS).vectors, own.embed(CELLS).vectors, rtol=1e-4, atol=1e-5)
    assert backend.generate(CELLS, Sampling(max_new_tokens=6)) == own.generate(CELLS, Sampling(max_new_tokens=6))
    for sampling in (Sampling(), Sampling(temperature=1.0, seed=3)):
        guided = backend.generate(CELLS, sampling, genes=GENES)
        assert guided == own.generate(CELLS, sampling, genes=GENES)
        assert all(len(set(text.split())) == cell.answer_genes for cell, text in zip(CELLS, guided, strict=True))
    if fake.guide:  # otherwise the server draws
        drawn = Sampling(temperature=1.0, seed=3, top_k=20, top_p=0.9, max_new_tokens=6)
        for genes in (None, GENES):
            assert backend.generate(CELLS, drawn, genes=genes) == own.generate(CELLS, drawn, genes=genes)
    if habits.get("replies") != "content":
        np.testing.assert_allclose(backend.score(CELLS, ANSWERS), own.score(CELLS, ANSWERS), atol=1e-4)


def test_a_server_that_takes_text_only(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    fake, backend = serve(ids=False, replies="text", kind="spm", architecture="gemma2")
    own = tiny.backend(fake.architecture, fake.kind)
    np.testing.assert_allclose(backend.embed(CELLS).vectors, own.embed(CELLS).vectors, rtol=1e-4, atol=1e-5)
    assert backend.generate(CELLS, Sampling(max_new_tokens=6)) == own.generate(CELLS, Sampling(max_new_tokens=6))
    np.testing.assert_allclose(backend.score(CELLS, ANSWERS), own.score(CELLS, ANSWERS), atol=1e-4)
    with pytest.raises(Unsupported, match=r"each once: it takes text only.*--unguided"):
        backend.generate(CELLS, Sampling(), genes=GENES)
    assert backend.provenance()["server"]["prompts"] == "text, tokenized by the server"
    assert not [record for record in caplog.records if "another model or tokenizer" in record.message]


def test_another_tokenizer_is_noticed(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    fake, backend = serve(ids=False, replies="text")
    fake.tokens = tiny.tokens("genes")
    backend.generate(CELLS, Sampling(max_new_tokens=1))
    assert "another model or tokenizer" in caplog.text


def test_what_a_server_cannot_do(serve: Serve) -> None:
    _, backend = serve(echo=False, bias=False, embeddings=False)
    with pytest.raises(Unsupported, match="cannot score labels: it ignores echo"):
        backend.score(CELLS, ANSWERS)
    with pytest.raises(Unsupported, match="each once: it ignores logit_bias"):
        backend.generate(CELLS, Sampling(), genes=GENES)
    with pytest.raises(Unsupported, match="has no embeddings of 'tiny': Not Found"):
        backend.embed(CELLS)
    with pytest.raises(Unsupported, match="no probabilities of genes"):
        backend.expect(CELLS, GENES, [np.ones(9)] * len(CELLS))
    _, backend = serve(completions=False)
    with pytest.raises(Unsupported, match="has no completions of 'tiny': Not Found"):
        backend.generate(CELLS, Sampling())
    assert backend.embed(CELLS).vectors.shape == (4, 32)


def test_provenance_names_what_the_server_did_its_own_way(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    _, backend = serve(unit=True)
    record = backend.provenance()
    assert record["server"] == {"model": "tiny"}
    assert record["weights_sha256"] == ""
    assert record["dtype"] == "of the server"
    backend.generate(CELLS, Sampling(max_new_tokens=2))
    assert backend.provenance()["server"] == {"model": "tiny"}, "greedy answers are those of the model"
    backend.generate(CELLS, Sampling(max_new_tokens=2, temperature=1.0))
    backend.generate(CELLS[:1], Sampling(), genes=GENES)
    backend.embed(CELLS)
    assert "scaled to length 1" in caplog.text
    assert backend.provenance()["server"] == {
        "model": "tiny",
        "draws": "by the server",
        "guided": "by logit_bias, a request per token",
        "vectors": "pooled by the server, of length 1",
    }


# -- models, addresses, failures


def test_choice_among_models(serve: Serve, folder: Callable[[str, str], Path]) -> None:
    fake, backend = serve(models=("other",))
    assert backend.served == "other", "the only one"
    fake.models = ("a", "b")
    with pytest.raises(ValueError, match=r"several models, and none is called 'tiny'; available: \['a', 'b'\].*#NAME"):
        backends.load(backend.model, "openai", url=fake.url)
    with pytest.raises(ValueError, match=r"has no model 'c'; available: \['a', 'b'\]"):
        backends.load(backend.model, "openai", url=f"{fake.url}#c")
    chosen = backends.load(backend.model, "openai", url=f"{fake.url}/v1/#b", progress=False)
    chosen.generate(CELLS, Sampling(max_new_tokens=1))
    assert fake.requests[-1][1]["model"] == "b"
    fake.models = ("a", "tiny")
    assert backends.load(backend.model, "openai", url=fake.url).provenance()["server"]["model"] == "tiny"
    fake.models = ("a",)  # changed under way
    with pytest.raises(Unsupported, match="`b` does not exist"):
        chosen.embed(CELLS)


def test_context_of_the_server(serve: Serve) -> None:
    _, backend = serve(context=200)
    assert backend.context == 199
    assert serve()[1].context == tiny.CONTEXT - 1


def test_no_address_no_device_no_tokenizer(serve: Serve, tmp_path: Path) -> None:
    fake, backend = serve()
    with pytest.raises(ValueError, match="needs the address of a server: --url"):
        backends.load(backend.model, "openai")
    with pytest.raises(ValueError, match="device='cuda', but a server computes"):
        backends.load(backend.model, "openai", url=fake.url, device="cuda")
    with pytest.raises(FileNotFoundError, match=r"config.json and tokenizer.json of .*are not on this machine"):
        backends.load(Model(name="empty", path=str(tmp_path)), "openai", url=fake.url)


def test_nothing_is_sent_before_a_verb_but_the_question_for_models(serve: Serve) -> None:
    fake, backend = serve()
    assert [path for path, *_ in fake.requests] == ["/v1/models"]
    backend.count_tokens(["CD4"])
    assert len(fake.requests) == 1
    assert backend.generate([], Sampling()) == []
    assert backend.score([], ANSWERS).shape == (0, 4)
    assert len(fake.requests) == 1


def test_a_prompt_that_the_server_refuses(serve: Serve) -> None:
    fake, backend = serve()
    fake.context = 20
    with pytest.raises(ValueError, match="400: This model's maximum context length is 20 tokens"):
        backend.generate(CELLS, Sampling(max_new_tokens=4))
