"""Drawing tokens, ending answers, and the generation loop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from cell2sen.engine.decoding.drafts import GeneDrafts, Memory
from cell2sen.engine.decoding.gene_trie import GeneTrie
from cell2sen.engine.decoding.guide import Guide
from cell2sen.engine.decoding.loop import Free, Work, draw, write
from cell2sen.engine.decoding.sampling import row_key

LOGITS = 2 * torch.randn((1, 50), generator=torch.Generator().manual_seed(0))
N = 20_000
ROWS, NOWHERE = torch.tensor([row_key(0, str(row)) for row in range(N)]), torch.zeros(N, dtype=torch.int64)


@pytest.mark.parametrize("top_p", [None, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("top_k", [None, 1, 7, 50, 99])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_from_the_distribution_of_transformers(
    temperature: float, top_k: int | None, top_p: float | None
) -> None:
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    tokens = draw(LOGITS.expand(N, -1), ROWS, NOWHERE, torch.arange(50), **options)  # type: ignore[arg-type]
    scores = TemperatureLogitsWarper(temperature)(None, LOGITS)
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p is not None:
        scores = TopPLogitsWarper(top_p)(None, scores)
    wanted = N * scores[0].double().softmax(0).numpy()
    found = np.bincount(tokens.numpy(), minlength=50)
    assert found[wanted == 0].sum() == 0
    often = wanted >= 5
    parts = [(found[often], wanted[often]), (found[~often].sum(keepdims=True), wanted[~often].sum(keepdims=True))]
    chi = sum(float(((seen - mean) ** 2 / np.maximum(mean, 1e-9)).sum()) for seen, mean in parts)
    assert chi <= scipy.stats.chi2.isf(1e-4, max(int(often.sum()), 1)), "exceeded by chance once in ten thousand"


def test_greedy_takes_the_likeliest() -> None:
    here = ROWS[:1], NOWHERE[:1], torch.arange(50)
    assert draw(LOGITS, *here, temperature=0.0, top_k=5, top_p=0.1).tolist() == [int(LOGITS.argmax())]


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.999}, {"top_k": 4, "top_p": 0.5}])
def test_what_is_not_allowed_is_never_drawn(options: dict[str, float]) -> None:
    logits = torch.full((N, 10), -torch.inf)
    logits[:, 4], logits[:, 6] = 0.0, 1e-3
    drawn = draw(logits, ROWS, NOWHERE, torch.arange(10), temperature=1.0, **options)  # type: ignore[arg-type]
    assert set(drawn.tolist()) == ({6} if options.get("top_p") == 0.5 else {4, 6})


@pytest.mark.parametrize("options", [{}, {"top_k": 30}, {"top_p": 0.9}])
def test_a_draw_does_not_depend_on_tokens_that_cannot_be_drawn(options: dict[str, float]) -> None:
    # Other columns are masked, or not there at all, and the row stands elsewhere in the batch.
    kept = torch.arange(0, 50, 2)
    masked = LOGITS.clone()
    masked[:, 1::2] = -torch.inf
    options = {"temperature": 1.3, **options}
    whole = draw(masked.expand(N, -1), ROWS, NOWHERE, torch.arange(50), **options)  # type: ignore[arg-type]
    part = draw(masked[:, kept].expand(N, -1), ROWS.flip(0), NOWHERE, kept, **options)  # type: ignore[arg-type]
    assert (kept[part].flip(0) == whole).all()


@pytest.mark.slow
def test_what_differs_by_rounding_is_drawn_alike() -> None:
    # Ten thousand tokens, and logits that differ by a hundred times what float32 rounds: a draw changes where the two
    # highest lie closer than that, once in ten thousand. One number a place, compared with cumulative probabilities,
    # changes with the rounding of all tokens: 91 of these draws (measured).
    n = 10_000
    random = torch.Generator().manual_seed(0)
    changed = 0
    for first in range(0, N, 1000):
        some = slice(first, first + 1000)
        logits = torch.randn((1000, n), generator=random)
        here = ROWS[some], NOWHERE[some], torch.arange(n)
        one = draw(logits, *here, temperature=1.0)
        other = draw(logits.add_(torch.randn(logits.shape, generator=random), alpha=1e-4), *here, temperature=1.0)
        changed += int((one != other).sum())
    assert changed <= 10


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
    assert rows.columns is None
    assert rows.text(0) == wanted.replace("{", "")


class Counter:
    """A model that counts up from the last id; it reads and forgets as a real one does."""

    def __init__(self) -> None:
        self.passes: list[tuple[list[list[int]], list[list[int]]]] = []
        self.kept: list[list[int]] = []

    def read(self, ids: np.ndarray, places: np.ndarray) -> torch.Tensor:
        self.passes.append((ids.tolist(), places.tolist()))
        return torch.from_numpy(ids)[:, :, None].float()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(hidden[:, 0].long() + 1, 30).float()

    def keep(self, rows: np.ndarray) -> None:
        self.kept.append(rows.tolist())


def test_the_loop_drops_rows_that_are_done() -> None:
    # Rows end at 20, which they reach at different times.
    model, work = Counter(), Work()
    rows = Free(3, lambda ids, special: " ".join(map(str, ids)), eos=[20], limit=9)
    prompts = [np.array(ids) for ids in ([17], [5, 15], [18])]
    keys = [row_key(0, str(row)) for row in range(3)]
    write(prompts, rows, keys, read=model.read, logits=model.logits, keep=model.keep, work=work)
    assert [rows.text(row) for row in range(3)] == ["18 19", "16 17 18 19", "19"]
    assert model.kept == [[0, 1], [1]]
    assert [len(ids) for ids, _ in model.passes] == [3, 3, 2, 1, 1]
    assert model.passes[1] == ([[18], [16], [19]], [[1], [2], [1]])
    assert work == Work(passes=10, batch_passes=5, read=10, tokens=10)


# Ten genes of two or three tokens with common beginnings; a "model" whose logits depend on all that it has read.
GENES = [[1, 2], [1, 2, 3], [1, 3], [4, 1], [4, 2, 1], [4, 2, 2], [5], [6, 6], [6, 5, 4], [6, 5, 5]]


class Remembering:
    """Logits are a fixed random function of all tokens so far."""

    def __init__(self, prompts: Sequence[np.ndarray]) -> None:
        self.texts = [prompt[:-1].tolist() for prompt in prompts]

    def read(self, ids: np.ndarray, places: np.ndarray) -> torch.Tensor:
        hidden = torch.zeros((*ids.shape, 8))
        for row, (line, where) in enumerate(zip(ids.tolist(), places.tolist(), strict=True)):
            for column, (token, place) in enumerate(zip(line, where, strict=True)):
                assert place <= len(self.texts[row]), "no place is left out"
                self.texts[row][place:] = [token]
                seed = int.from_bytes(bytes(self.texts[row]), "little")
                hidden[row, column] = torch.from_numpy(np.random.default_rng(seed).normal(size=8))
        return hidden

    def keep(self, rows: np.ndarray) -> None:
        self.texts = [self.texts[row] for row in rows]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 3, "top_p": 0.9}])
def test_guided_rows_one_token_at_a_time_and_with_guesses(options: dict[str, float]) -> None:
    asks = [10, 3, 7, 1, 10]
    prompts = [np.array([9] * (1 + row % 3)) for row in range(5)]
    trie = GeneTrie([str(gene) for gene in range(10)], GENES)
    found, works = [], []
    # Without guesses, from nothing, and from what was said before: this model changes its mind at every token.
    memory = Memory(trie, Guide(trie, [], [0], 8).columns)
    keys = [row_key(3, str(row)) for row in range(5)]
    for drafts in (None, GeneDrafts(memory, keys, options.get("temperature", 0.0)), GeneDrafts(memory, keys)):
        guide, model, work = Guide(trie, asks, [0], 8, drafts), Remembering(prompts), Work()
        write(
            prompts, guide, keys, read=model.read, keep=model.keep, work=work,
            logits=lambda hidden, guide=guide: hidden[:, torch.from_numpy(guide.columns)], **options,  # type: ignore[arg-type]
        )  # fmt: skip
        found.append(guide.written)
        works.append(work)
    assert found[0] == found[1] == found[2]
    assert [len(genes) for genes in found[0]] == asks
    assert works[0].tokens == works[1].tokens == works[2].tokens
    assert works[0].passes < works[0].tokens, "forced tokens take no pass of their own"
    assert works[0].tokens <= works[0].read <= works[0].tokens + 5, "nothing but what is written is read"
    assert works[1].read > works[0].read, "guesses were made"


def test_samples_have_the_distribution_of_the_model() -> None:
    # Two genes out of three, one token each: 6 answers, whose probabilities are products of renormalised shares.
    trie = GeneTrie(["a", "b", "c"], [[1], [2], [3]])
    share = np.array([0.5, 0.3, 0.2])
    logits = torch.from_numpy(np.log(share)).float()
    n = 6000
    counts: dict[tuple[int, ...], int] = {}
    memory = Memory(trie, np.array([1, 2, 3]))
    for start in range(0, n, 500):
        keys = [row_key(0, str(start + row)) for row in range(500)]
        guide = Guide(trie, [2] * 500, [], 4, GeneDrafts(memory, keys, 1.0))
        prompts = [np.array([0])] * 500
        write(
            prompts, guide, keys, temperature=1.0, keep=lambda rows: None,
            read=lambda ids, places: torch.zeros((*ids.shape, 1)),
            logits=lambda hidden: logits.expand(len(hidden), -1),
        )  # fmt: skip
        for genes in guide.written:
            counts[tuple(genes)] = counts.get(tuple(genes), 0) + 1
    chi = 0.0
    for one in range(3):
        for other in {0, 1, 2} - {one}:
            wanted = n * share[one] * share[other] / (1 - share[one])
            chi += (counts[one, other] - wanted) ** 2 / wanted
    assert chi < 20.5, "chi-square with 5 degrees of freedom: 20.5 is exceeded once in a thousand"
