"""Drawing tokens, ending answers, and the generation loop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from cell2sen.decode import Free, draw, noise, positions, write

LOGITS = 2 * torch.randn((1, 50), generator=torch.Generator().manual_seed(0))


def grid(n: int) -> torch.Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


@pytest.mark.parametrize("top_p", [None, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("top_k", [None, 1, 7, 50, 99])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_from_the_distribution_of_transformers(
    temperature: float, top_k: int | None, top_p: float | None
) -> None:
    n = 20_000
    tokens = draw(LOGITS.expand(n, -1), grid(n), temperature=temperature, top_k=top_k, top_p=top_p)
    scores = TemperatureLogitsWarper(temperature)(None, LOGITS)
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p is not None:
        scores = TopPLogitsWarper(top_p)(None, scores)
    wanted = scores[0].softmax(0).numpy()
    found = np.bincount(tokens.numpy(), minlength=50) / n
    np.testing.assert_allclose(found, wanted, atol=2 / n)
    assert ((found > 0) <= (wanted > 0)).all()


def test_greedy_takes_the_likeliest() -> None:
    assert draw(LOGITS, torch.zeros(1), temperature=0.0, top_k=5, top_p=0.1).tolist() == [int(LOGITS.argmax())]


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.999}, {"top_k": 4, "top_p": 0.5}])
def test_what_is_not_allowed_is_never_drawn(options: dict[str, float]) -> None:
    logits = torch.full((3, 10), -torch.inf)
    logits[:, [4, 6]] = torch.tensor([0.0, 1e-3])
    uniform = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert set(draw(logits, uniform, temperature=1.0, **options).tolist()) <= {4, 6}  # type: ignore[arg-type]


def test_noise_depends_on_seed_and_key_alone() -> None:
    first = noise(0, "cell").random(3)
    assert (noise(0, "cell").random(3) == first).all()
    assert (noise(1, "cell").random(3) != first).all()
    assert (noise(0, "cell2").random(3) != first).all()
    # The same on every machine and in every release: results with a seed would change otherwise.
    np.testing.assert_allclose(first, [0.69306511, 0.16227860, 0.30915647], atol=1e-8)


def test_positions() -> None:
    real = torch.tensor([[False, False, True, True], [True, True, True, False]])
    assert positions(real).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


def read(ids: Sequence[int], special: bool) -> str:
    return "".join("<end>" * special if each == 26 else chr(ord("a") + each) for each in ids)


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("abcdefgh", (), "abcdef"),
        ("ab[cd", (), "ab"),
        ("abcdefgh", ("cd",), "ab"),
        ("abcdefgh", ("zz", "de", "bcd"), "a"),
        ("abc{defg", ("<end>",), "abc"),
    ],
)
def test_free_answers_end(text: str, stop: tuple[str, ...], wanted: str) -> None:
    # 26, written {, is a special token; 27 is the end of the text, written [.
    ids = [{"{": 26, "[": 27}.get(each, ord(each) - ord("a")) for each in text]
    rows = Free(1, read, eos=[27], limit=6, stop=stop)
    for token in ids:
        if rows.done(0):
            break
        rows.advance(0, token)
    assert rows.done(0)
    assert rows.mask([0]) is None
    assert rows.text(0) == wanted.replace("{", "")


def test_the_loop_drops_rows_that_are_done() -> None:
    # A model that counts up from the last id; rows end at 20, which they reach at different times.
    seen: list[tuple[list[list[int]], list[list[int]]]] = []

    def next_logits(ids: torch.Tensor, real: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        seen.append((ids.tolist(), position.tolist()))
        assert real.shape[0] == ids.shape[0]
        assert real.sum(1).tolist() == [each[-1] + 1 for each in position.tolist()]
        return torch.nn.functional.one_hot(ids[:, -1] + 1, 30).float()

    kept: list[list[int]] = []
    rows = Free(3, lambda ids, special: " ".join(map(str, ids)), eos=[20], limit=9)
    ids, real = torch.tensor([[0, 17], [5, 15], [0, 18]]), torch.tensor([[False, True], [True, True], [False, True]])
    noises = [noise(0, str(row)) for row in range(3)]
    write(ids, real, rows, noises, next_logits=next_logits, keep=lambda each: kept.append(each.tolist()))
    assert [rows.text(row) for row in range(3)] == ["18 19", "16 17 18 19", "19"]
    assert kept == [[0, 1], [1]]
    assert [len(each) for each, _ in seen] == [3, 3, 2, 1, 1]
    assert seen[1] == ([[18], [16], [19]], [[1], [2], [1]])
