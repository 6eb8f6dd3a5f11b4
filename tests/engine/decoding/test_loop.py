"""Ends of free text, and equal answers of the loop with and without drafts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from cell2sen.engine.decoding.drafts import DraftMemory, GeneDrafts
from cell2sen.engine.decoding.gene_trie import GeneTrie
from cell2sen.engine.decoding.guide import Guide
from cell2sen.engine.decoding.loop import FreeText, Work, generate
from cell2sen.engine.decoding.sampling import row_key


def decode(ids: Sequence[int], special: bool) -> str:
    return "".join("<end>" * special if token == 26 else chr(ord("a") + token) for token in ids)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("abcdefgh", (), "abcdef"),
        ("ab[cd", (), "ab"),
        ("abcdefgh", ("cd",), "ab"),
        ("abcdefgh", ("zz", "de", "bcd"), "a"),
        ("abc{defg", ("<end>",), "abc"),
    ],
)
def test_free_text_ends(text: str, stop: tuple[str, ...], expected: str) -> None:
    # 26, written {, is a special token; 27 is the end of the text, written [.
    ids = [{"{": 26, "[": 27}.get(character, ord(character) - ord("a")) for character in text]
    rows = FreeText(1, decode, eos=[27], limit=6, stop=stop)
    for token in ids:
        if rows.done(0):
            break
        rows.advance(0, token)
    assert rows.done(0)
    assert rows.columns is None
    assert rows.text(0) == expected.replace("{", "")


class Counter:
    """A model whose next token is the last one + 1; it records its passes."""

    def __init__(self) -> None:
        self.passes: list[tuple[list[list[int]], list[list[int]]]] = []
        self.kept: list[list[int]] = []

    def hidden_states(self, ids: np.ndarray, positions: np.ndarray) -> torch.Tensor:
        self.passes.append((ids.tolist(), positions.tolist()))
        return torch.from_numpy(ids)[:, :, None].float()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(hidden[:, 0].long() + 1, 30).float()

    def select_rows(self, rows: np.ndarray) -> None:
        self.kept.append(rows.tolist())


def test_the_loop_drops_rows_that_are_done() -> None:
    # Rows end at 20, which they reach at different times.
    model, work = Counter(), Work()
    rows = FreeText(3, lambda ids, special: " ".join(map(str, ids)), eos=[20], limit=9)
    prompts = [np.array(ids) for ids in ([17], [5, 15], [18])]
    keys = [row_key(0, str(row)) for row in range(3)]
    generate(
        prompts,
        rows,
        keys,
        hidden_states=model.hidden_states,
        logits=model.logits,
        select_rows=model.select_rows,
        work=work,
    )
    assert [rows.text(row) for row in range(3)] == ["18 19", "16 17 18 19", "19"]
    assert model.kept == [[0, 1], [1]]
    assert [len(ids) for ids, _ in model.passes] == [3, 3, 2, 1, 1]
    assert model.passes[1] == ([[18], [16], [19]], [[1], [2], [1]])
    assert work == Work(passes=10, batch_passes=5, read=10, tokens=10)


# Ten genes of one to three tokens with common beginnings.
GENES = [[1, 2], [1, 2, 3], [1, 3], [4, 1], [4, 2, 1], [4, 2, 2], [5], [6, 6], [6, 5, 4], [6, 5, 5]]


class HistoryModel:
    """A model whose logits are a random function of all tokens so far."""

    def __init__(self, prompts: Sequence[np.ndarray]) -> None:
        self.texts = [prompt[:-1].tolist() for prompt in prompts]

    def hidden_states(self, ids: np.ndarray, positions: np.ndarray) -> torch.Tensor:
        hidden = torch.zeros((*ids.shape, 8))
        for row, (line, row_positions) in enumerate(zip(ids.tolist(), positions.tolist(), strict=True)):
            for column, (token, position) in enumerate(zip(line, row_positions, strict=True)):
                assert position <= len(self.texts[row]), "no position is left out"
                self.texts[row][position:] = [token]
                seed = int.from_bytes(bytes(self.texts[row]), "little")
                hidden[row, column] = torch.from_numpy(np.random.default_rng(seed).normal(size=8))
        return hidden

    def select_rows(self, rows: np.ndarray) -> None:
        self.texts = [self.texts[row] for row in rows]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 3, "top_p": 0.9}])
def test_guided_rows_are_equal_with_and_without_drafts(options: dict[str, float]) -> None:
    n_genes = [10, 3, 7, 1, 10]
    prompts = [np.array([9] * (1 + row % 3)) for row in range(5)]
    trie = GeneTrie([str(gene) for gene in range(10)], GENES)
    answers, works = [], []
    # Without drafts, from an empty memory, and from logits of the call before, which are wrong at every token.
    memory = DraftMemory(trie, Guide(trie, [], [0], 8).columns)
    keys = [row_key(3, str(row)) for row in range(5)]
    for drafts in (None, GeneDrafts(memory, keys, options.get("temperature", 0.0)), GeneDrafts(memory, keys)):
        guide, model, work = Guide(trie, n_genes, [0], 8, drafts), HistoryModel(prompts), Work()
        generate(
            prompts, guide, keys, hidden_states=model.hidden_states, select_rows=model.select_rows, work=work,
            logits=lambda hidden, guide=guide: hidden[:, torch.from_numpy(guide.columns)], **options,  # type: ignore[arg-type]
        )  # fmt: skip
        answers.append(guide.written)
        works.append(work)
    assert answers[0] == answers[1] == answers[2]
    assert [len(genes) for genes in answers[0]] == n_genes
    assert works[0].tokens == works[1].tokens == works[2].tokens
    assert works[0].passes < works[0].tokens, "forced tokens take no pass of their own"
    assert works[0].tokens <= works[0].read <= works[0].tokens + 5, "only written tokens are read"
    assert works[1].read > works[0].read, "drafts were made"


def test_samples_have_the_distribution_of_the_model() -> None:
    # Two genes out of three, one token each: 6 answers, whose probabilities are products of renormalised shares.
    trie = GeneTrie(["a", "b", "c"], [[1], [2], [3]])
    share = np.array([0.5, 0.3, 0.2])
    logits = torch.from_numpy(np.log(share)).float()
    n = 6000
    counts: dict[tuple[int, ...], int] = {}
    memory = DraftMemory(trie, np.array([1, 2, 3]))
    for start in range(0, n, 500):
        keys = [row_key(0, str(start + row)) for row in range(500)]
        guide = Guide(trie, [2] * 500, [], 4, GeneDrafts(memory, keys, 1.0))
        prompts = [np.array([0])] * 500
        generate(
            prompts, guide, keys, temperature=1.0, select_rows=lambda rows: None,
            hidden_states=lambda ids, positions: torch.zeros((*ids.shape, 1)),
            logits=lambda hidden: logits.expand(len(hidden), -1),
        )  # fmt: skip
        for genes in guide.written:
            counts[tuple(genes)] = counts.get(tuple(genes), 0) + 1
    chi = 0.0
    for first in range(3):
        for second in {0, 1, 2} - {first}:
            expected = n * share[first] * share[second] / (1 - share[first])
            chi += (counts[first, second] - expected) ** 2 / expected
    assert chi < 20.5, "chi-square with 5 degrees of freedom: 20.5 is exceeded once in a thousand"
