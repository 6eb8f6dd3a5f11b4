"""Drawn sentences over ten thousand genes, each one token: rounding, which depends on the batch, decides nothing."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import tiny

from cell2sen.backend import Sampling
from cell2sen.backends.transformers import TransformersBackend
from cell2sen.engine.tokenization.tokenizer import Tokens
from cell2sen.model import Model
from cell2sen.prompt import Prompt

GENES = tuple(f"GENE{number}" for number in range(10_000))
ASK = 150


@functools.cache
def backend() -> Any:
    tokenizer = tiny.genes_tokenizer(list(GENES))
    tokens = Tokens(tokenizer, bos=None, eos=[tokenizer.token_to_id("<|endoftext|>")], unk=None)
    network = tiny.network("gpt_neox", tokenizer.get_vocab_size(), initializer_range=0.1)
    return TransformersBackend(Model(name="tiny", path="tiny", dtype="float32"), network, tokens, progress=False)


def cells(n: int, ask: int = ASK) -> list[Prompt]:
    random = np.random.default_rng(0)
    return [
        Prompt.of_cell(
            "Cell sentence: ",
            genes=tuple(GENES[gene] for gene in random.choice(len(GENES), random.integers(20, 200), replace=False)),
            after=". Cell sentence:",
            key=f"cell{row}",
            answer_genes=ask - row % 7,
        )
        for row in range(n)
    ]


def drawn(
    prompts: Sequence[Prompt], batch_size: int | None = None, *, genes: tuple[str, ...] = GENES, drafts: bool = True,
    **options: Any,
) -> Any:  # fmt: skip
    made = backend()
    made.batch_size, made.generator.drafts = batch_size, drafts
    sampling = Sampling(**{"temperature": 1.0, "seed": 1} | options)
    return [text.split() for text in made.generate(prompts, sampling, genes=genes)]


@functools.cache
def whole() -> list[list[str]]:
    return drawn(cells(24))


@pytest.mark.parametrize(("batch_size", "drafts"), [(24, False), (7, True)])
@pytest.mark.slow
def test_no_batch_changes_a_sentence(batch_size: int, drafts: bool) -> None:
    assert sum(map(len, whole())) > 3000
    assert len({gene for genes in whole() for gene in genes}) > 1500, "no few genes have all the probability"
    assert drawn(cells(24), batch_size, drafts=drafts) == whole()


@pytest.mark.slow
def test_alone_and_in_another_order() -> None:
    assert drawn(cells(24)[:6], 1) == whole()[:6]
    order = np.random.default_rng(1).permutation(24)
    assert drawn([cells(24)[row] for row in order], 9) == [whole()[row] for row in order]


@pytest.mark.slow
def test_several_tokens_in_a_pass() -> None:
    # So warm, and of so few genes, that the noise decides more than the model, and draws can be guessed: passes hold
    # many places, and rows differ in how many.
    warm: dict[str, Any] = {"temperature": 30.0, "genes": GENES[:200]}
    plain = drawn(cells(12), 12, drafts=False, **warm)
    for batch_size in (1, 4, 12):
        assert drawn(cells(12), batch_size, **warm) == plain
        work = backend().generator.work
        assert work.passes < 0.9 * work.tokens, "guesses come true"
    alike = [replace(cells(1)[0], key=key) for key in ("one", "two", "one")]
    found = drawn(alike, 2, **warm)
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("options", [{"top_k": 500}, {"top_p": 0.9}, {"temperature": 0.7, "top_k": 2000, "top_p": 0.5}])
@pytest.mark.slow
def test_truncated(options: dict[str, float]) -> None:
    assert drawn(cells(8), 3, **options) == drawn(cells(8), 8, drafts=False, **options)


@pytest.mark.slow
def test_what_is_drawn_is_what_the_expectation_goes_through() -> None:
    # Behind the first gene of three, the expected value of the others is their probability: that of the drawn sentence.
    made = backend()
    made.batch_size = None
    prompts = [replace(cell, answer_genes=40) for cell in cells(4)]
    last = made.expect(prompts, GENES, np.eye(40)[39], seed=1)
    first = drawn([replace(cell, answer_genes=39) for cell in cells(4)])
    for row, genes in zip(last, first, strict=True):
        used = np.isin(GENES, genes)
        assert used.sum() == 39
        assert (row[used] == 0).all(), "what was drawn before is not drawn again"
        assert (row[~used] > 0).all()


@pytest.mark.slow
def test_first_genes_have_the_distribution_of_the_model() -> None:
    n = 6000
    [cell] = cells(1)
    rows = [replace(cell, key=f"draw{row}", answer_genes=1) for row in range(n)]
    found = [genes[0] for genes in drawn(rows, 500)]
    share = backend().expect(rows[:1], GENES, np.ones(1))[0].astype(np.float64)
    order = np.argsort(-share, kind="stable")
    place = {GENES[gene]: rank for rank, gene in enumerate(order)}
    # Forty groups of genes of about the same probability together, the likeliest first.
    edges = np.searchsorted(np.cumsum(share[order]) / share.sum(), np.linspace(0, 1, 41)[1:-1])
    wanted = n * np.add.reduceat(share[order], [0, *edges]) / share.sum()
    seen = np.bincount(np.searchsorted(edges, [place[gene] for gene in found], side="right"), minlength=len(wanted))
    assert wanted.min() > 20
    assert scipy.stats.chisquare(seen, wanted).pvalue > 1e-3
