"""Embeddings of edited prompts: equal to those of whole prompts, in any company."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny

from cell2sen.engine.edited import is_worth_it, shared_tokens


def edited(n_cells: int = 3) -> tuple[list[Any], list[Any], list[int]]:
    """Prompts of some cells, prompts without one or two of their genes, and the cell of each."""
    cells = [tiny.with_opening(prompt, "Cell sentence: ") for prompt in tiny.prompts(n_cells, genes=(20, 40))]
    prompts, base_of = [], []
    for cell, base in enumerate(cells):
        genes = list(base.genes)
        for gone in ({0}, {9}, {10}, {len(genes) - 2}, {len(genes) - 1}, {7, 15}, set()):
            kept = [gene for place, gene in enumerate(genes) if place not in gone]
            prompts.append(tiny.with_genes(base, kept))
            base_of.append(cell)
    return cells, prompts, base_of


@pytest.mark.parametrize(("architecture", "kind"), [("gpt_neox", "bytes"), ("gemma2", "spm")])
def test_equals_whole_prompts(architecture: str, kind: str) -> None:
    """Slow twin: all prompts read whole. Order and other prompts do not matter; long batches are cut."""
    backend = tiny.backend(architecture, kind)
    bases, prompts, base_of = edited()
    whole = backend.embed(prompts).vectors
    found = backend.embed_edited(prompts, bases, base_of)
    np.testing.assert_allclose(found, whole, atol=2e-5)
    assert len(np.unique(found.round(4), axis=0)) == len(prompts)
    order = np.random.default_rng(0).permutation(len(prompts))[:9]
    some = backend.embed_edited([prompts[row] for row in order], bases, [base_of[row] for row in order])
    np.testing.assert_allclose(some, found[order], atol=2e-5)
    backend.batch_size = 2
    np.testing.assert_allclose(backend.embed_edited(prompts, bases, base_of), whole, atol=2e-5)


def test_shared_tokens_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = tiny.backend("gpt_neox", "bytes")
    n_read: list[int] = []
    forward = type(backend.causal).forward

    def counted(self: Any, ids: Any, *arguments: Any) -> Any:
        n_read.append(ids.size)
        return forward(self, ids, *arguments)

    monkeypatch.setattr(type(backend.causal), "forward", counted)
    [base], _, _ = edited(1)
    last = tiny.with_genes(base, list(base.genes)[:-1])
    backend.embed_edited([last] * 20, [base], [0] * 20)
    assert 0 < sum(n_read) < 2 * len(backend._tokenize([base])[0].ids) + 20 * 40
    n_read.clear()
    first = tiny.with_genes(base, list(base.genes)[1:])  # nothing but the instruction is shared
    backend.embed_edited([first], [base], [0])
    assert not n_read


def test_number_of_shared_tokens() -> None:
    base = np.array([1, 2, 3, 4, 5], dtype=np.int32)
    for row, n in (([1, 2, 4, 5], 2), ([1, 2, 3, 4], 3), ([1, 2, 3, 4, 5], 4), ([9, 1], 0), ([1, 2, 3, 4, 5, 6, 7], 5)):
        assert shared_tokens(np.array(row, dtype=np.int32), base) == n
    assert is_worth_it(base[:4], base)
    assert not is_worth_it(np.array([1, 9, 9, 9, 9], dtype=np.int32), base)
