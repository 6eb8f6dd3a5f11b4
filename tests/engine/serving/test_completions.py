"""Details of requests to completions servers; the verbs are tested in tests/backends/test_openai.py."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
from completions_server import FakeServer
from tiny import GENES, prompts

from cell2sen.backend import Sampling, Unsupported
from cell2sen.engine.serving.completions import CompletionsBackend
from cell2sen.engine.serving.http_client import Server
from cell2sen.engine.serving.token_backend import read_checkpoint
from cell2sen.model import Model

CELLS = prompts(3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(name="tiny", path=str(tiny.save(tmp_path_factory.mktemp("model"))))


@pytest.fixture
def backend(fake: FakeServer, model: Model) -> CompletionsBackend:
    return CompletionsBackend(model, read_checkpoint(model), Server(fake.url, tries=1), progress=False)


def bodies(fake: FakeServer) -> list[dict[str, Any]]:
    return [body for path, body, _ in fake.requests if path == "/v1/completions"]


def test_abilities_are_tried_once(backend: CompletionsBackend, fake: FakeServer) -> None:
    backend.generate(CELLS, Sampling(max_new_tokens=1))
    first = len(bodies(fake))
    backend.generate(CELLS, Sampling(max_new_tokens=1))
    assert len(bodies(fake)) - first == len(CELLS)


def test_prompts_are_our_ids(backend: CompletionsBackend, fake: FakeServer) -> None:
    backend.generate(CELLS, Sampling(max_new_tokens=2, temperature=0.5, top_k=4, top_p=0.5, seed=1, stop=(".", "\n")))
    sent = {tuple(body["prompt"]): body for body in bodies(fake)[-3:]}
    assert set(sent) == {tuple(row.ids.tolist()) for row in backend.tokens.encode(CELLS)}
    assert all(body["stop"] == [".", "\n"] and body["top_k"] == 4 for body in sent.values())
    assert len({body["seed"] for body in sent.values()}) == 3, "a seed of its own for each row"
    assert all(0 <= body["seed"] < 2**31 for body in sent.values())


def test_at_most_four_stop_strings_are_sent_and_all_cut(backend: CompletionsBackend, fake: FakeServer) -> None:
    stops = ("never1", "never2", "never3", "never4")
    texts = backend.generate(CELLS, Sampling(max_new_tokens=6))
    letter = next(character for character in texts[0] if character.isalnum())
    cut = backend.generate(CELLS, Sampling(max_new_tokens=6, stop=(*stops, letter)))
    assert bodies(fake)[-1]["stop"] == list(stops)
    assert cut == [text.partition(letter)[0].strip() for text in texts]


def test_forced_tokens_are_not_asked_for(backend: CompletionsBackend, fake: FakeServer) -> None:
    backend.generate(CELLS[:1], Sampling(), genes=GENES[:5])
    first = len(bodies(fake))
    [text] = backend.generate(CELLS[:1], Sampling(), genes=["S100A8", "CD4", "B2M"])
    asked = bodies(fake)[first:]
    tokens = backend.tokens.count([" " + gene for gene in text.split()]).sum()
    assert 0 < len(asked) < tokens
    for body in asked:
        assert body["max_tokens"] == 1
        assert body["temperature"] == 0
        assert 1 < len(body["logit_bias"]) < 10
        assert all(value == 100 for value in body["logit_bias"].values())


def test_noise_stays_within_what_servers_take(backend: CompletionsBackend, fake: FakeServer) -> None:
    backend.generate(CELLS[:1], Sampling(temperature=1.0), genes=GENES)
    values = [value for body in bodies(fake) for value in (body.get("logit_bias") or {}).values()]
    assert max(values) <= 100
    assert len(set(values)) > 50
    assert "draws" not in backend.provenance()["server"]
    backend.generate(CELLS[:1], Sampling(temperature=5.0), genes=GENES)
    assert backend.provenance()["server"]["draws"] == "by the server", "noise would be beyond the limit"


def test_a_text_of_several_tokens(fake: FakeServer, backend: CompletionsBackend) -> None:
    fake.replies = "text"
    with pytest.raises(Unsupported, match=r"gives no token ids, and .* is the text of several tokens"):
        backend._token({"text": "�"}, [token for token in range(256) if backend.tokens.text([token], True) == "�"])
    [cd4] = backend.tokens.ids([" C"])[0][:1]
    assert backend._token({"text": backend.tokens.text([cd4], True)}, [cd4, cd4 + 1]) == cd4
    [eos] = backend.eos
    assert backend._token({"text": "", "finish_reason": "stop"}, [cd4, eos]) == eos
    assert backend._token({"text": "x"}, [cd4, eos]) is None


def test_a_wrong_token_is_an_error(fake: FakeServer, backend: CompletionsBackend) -> None:
    assert not backend._why_no_bias
    fake.bias = False
    with pytest.raises(ValueError, match="wrote a token that logit_bias does not allow"):
        backend.generate(CELLS, Sampling(), genes=GENES)


@pytest.mark.parametrize("path", ["completions", "embeddings"])
def test_answers_that_are_none(fake: FakeServer, backend: CompletionsBackend, path: str) -> None:
    fake.failures.append((200, '{"object": "error"}'))
    with pytest.raises(ConnectionError, match=f"{path} answered without a completion or vector"):
        backend.embed(CELLS) if path == "embeddings" else backend.generate(CELLS, Sampling())


def test_a_page_that_lists_no_models(fake: FakeServer, model: Model) -> None:
    fake.failures.append((200, '{"models": []}'))
    with pytest.raises(ConnectionError, match="has no list of models"):
        CompletionsBackend(model, read_checkpoint(model), Server(fake.url))
    fake.failures.append((404, "Not Found"))
    assert CompletionsBackend(model, read_checkpoint(model), Server(fake.url)).served == "tiny"


def test_vectors_of_another_model(fake: FakeServer, backend: CompletionsBackend) -> None:
    backend.config.hidden_size = 33
    with pytest.raises(ValueError, match=r"vectors have the shape \(32,\), those of tiny 33"):
        backend.embed(CELLS)


def test_an_error_ends_the_other_requests(fake: FakeServer, backend: CompletionsBackend) -> None:
    backend.generate(CELLS[:1], Sampling(max_new_tokens=1))
    backend.batch_size = 1
    fake.failures.append((400, "no"))
    before = len(fake.requests)
    with pytest.raises(ValueError, match="400: no"):
        backend.generate(prompts(40), Sampling(max_new_tokens=1))
    assert len(fake.requests) - before < 5
    backend.batch_size = 0
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        backend.generate(CELLS, Sampling())


def test_progress_counts_rows(backend: CompletionsBackend) -> None:
    calls: list[tuple[str, float, int]] = []
    backend.progress = lambda name, done, total: calls.append((name, done, total))
    backend.embed(CELLS)
    assert calls == [("embedding", number, 3) for number in range(4)]
