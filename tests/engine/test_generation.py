"""Drawn sentences of four thousand genes, one token each, do not depend on rounding, which depends on the batch."""

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

GENES = tuple(f"GENE{number}" for number in range(4_000))
N_GENES = 60


@functools.cache
def tiny_backend() -> Any:
    tokenizer = tiny.genes_tokenizer(list(GENES))
    tokens = Tokens(tokenizer, bos=None, eos=[tokenizer.token_to_id("<|endoftext|>")], unk=None)
    network = tiny.network("gpt_neox", tokenizer.get_vocab_size(), initializer_range=0.1)
    return TransformersBackend(Model(name="tiny", path="tiny", dtype="float32"), network, tokens, progress=False)


def cells(n: int, n_genes: int = N_GENES) -> list[Prompt]:
    random = np.random.default_rng(0)
    return [
        Prompt.of_cell(
            "Cell sentence: ",
            genes=tuple(GENES[gene] for gene in random.choice(len(GENES), random.integers(20, 200), replace=False)),
            after=". Cell sentence:",
            key=f"cell{row}",
            answer_genes=n_genes - row % 7,
        )
        for row in range(n)
    ]


def drawn(
    prompts: Sequence[Prompt], batch_size: int | None = None, *, genes: tuple[str, ...] = GENES, drafts: bool = True,
    **options: Any,
) -> Any:  # fmt: skip
    loaded = tiny_backend()
    loaded.batch_size, loaded.generator.drafts = batch_size, drafts
    sampling = Sampling(**{"temperature": 1.0, "seed": 1} | options)
    return [text.split() for text in loaded.generate(prompts, sampling, genes=genes)]


@functools.cache
def together() -> list[list[str]]:
    return drawn(cells(12))


@pytest.mark.parametrize(("batch_size", "drafts"), [(12, False), (5, True)])
@pytest.mark.slow
def test_no_batch_changes_a_sentence(batch_size: int, drafts: bool) -> None:
    assert sum(map(len, together())) > 650
    assert len({gene for genes in together() for gene in genes}) > 400, "the probability is spread over many genes"
    assert drawn(cells(12), batch_size, drafts=drafts) == together()


@pytest.mark.slow
def test_alone_and_in_another_order() -> None:
    assert drawn(cells(12)[:4], 1) == together()[:4]
    order = np.random.default_rng(1).permutation(12)
    assert drawn([cells(12)[row] for row in order], 7) == [together()[row] for row in order]


@pytest.mark.slow
def test_several_tokens_in_a_pass() -> None:
    # A high temperature and few genes: noise matters more than the model, so that many draws can be drafted.
    warm: dict[str, Any] = {"temperature": 30.0, "genes": GENES[:200]}
    plain = drawn(cells(8), 8, drafts=False, **warm)
    for batch_size in (1, 3, 8):
        assert drawn(cells(8), batch_size, **warm) == plain
        work = tiny_backend().generator.work
        assert work.passes < 0.9 * work.tokens, "drafts are right"
    alike = [replace(cells(1)[0], key=key) for key in ("one", "two", "one")]
    result = drawn(alike, 2, **warm)
    assert result[0] == result[2] != result[1]


@pytest.mark.parametrize("options", [{"top_k": 200}, {"top_p": 0.9}, {"temperature": 0.7, "top_k": 800, "top_p": 0.5}])
@pytest.mark.slow
def test_top_k_and_top_p(options: dict[str, float]) -> None:
    assert drawn(cells(6), 2, **options) == drawn(cells(6), 6, drafts=False, **options)


@pytest.mark.slow
def test_expected_values_follow_the_drawn_sentence() -> None:
    # With a value of 1 at the last rank and 0 before, only genes that are not drawn before have an expected value.
    loaded = tiny_backend()
    loaded.batch_size = None
    prompts = [replace(cell, answer_genes=40) for cell in cells(4)]
    last = loaded.expect(prompts, GENES, [np.eye(40)[39]] * len(prompts), seed=1)
    first = drawn([replace(cell, answer_genes=39) for cell in cells(4)])
    for row, genes in zip(last, first, strict=True):
        used = np.isin(GENES, genes)
        assert used.sum() == 39
        assert (row[used] == 0).all(), "genes drawn before are not drawn again"
        assert (row[~used] > 0).all()


@pytest.mark.slow
def test_first_genes_have_the_distribution_of_the_model() -> None:
    n = 4000
    [cell] = cells(1)
    rows = [replace(cell, key=f"draw{row}", answer_genes=1) for row in range(n)]
    result = [genes[0] for genes in drawn(rows, 1000)]
    share = tiny_backend().expect(rows[:1], GENES, [np.ones(1)])[0].astype(np.float64)
    order = np.argsort(-share, kind="stable")
    place = {GENES[gene]: rank for rank, gene in enumerate(order)}
    # Thirty groups of genes with about equal probability, the most probable genes first.
    edges = np.searchsorted(np.cumsum(share[order]) / share.sum(), np.linspace(0, 1, 31)[1:-1])
    expected = n * np.add.reduceat(share[order], [0, *edges]) / share.sum()
    counts = np.bincount(
        np.searchsorted(edges, [place[gene] for gene in result], side="right"), minlength=len(expected)
    )
    assert expected.min() > 20
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3
