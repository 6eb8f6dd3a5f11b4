"""Training pairs of samples: cells of one donor, one tissue and one side of the split."""

from __future__ import annotations

from pathlib import Path

import pytest
from cells import cells

from cell2sen import tasks
from cell2sen.task import Task
from cell2sen.training.config.data import Augmentation, Split, TrainingFile
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.pairs import Pair, pairs

N = 120


@pytest.fixture
def donors(tmp_path: Path) -> TrainingCells:
    """Three donors of two tissues each; every tenth cell has no tissue."""
    adata = cells(N)
    adata.obs["donor"] = [f"d{row % 3}" for row in range(N)]
    adata.obs["tissue"] = [None if row % 10 == 0 else ("blood", "lung")[row % 2] for row in range(N)]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    file = TrainingFile(
        file="cells.h5ad",
        tasks={"tissue": 2},
        columns={"tissue": "tissue", "sample": "donor"},
        split=Split(test=0.3),
    )
    return TrainingCells(file, tmp_path, "upper")


def drawn(donors: TrainingCells, draw: int = 0, held_out: bool = False, task: Task | None = None) -> list[Pair]:
    return list(
        pairs(
            donors,
            {"tissue": task or tasks.load("tissue")},
            draw=draw,
            held_out=held_out,
            lengths={"tissue": 7},
            augmentation=Augmentation(),
            seed=3,
        )
    )


@pytest.mark.parametrize("held_out", [False, True])
def test_samples_have_one_donor_one_tissue_and_one_side(donors: TrainingCells, held_out: bool) -> None:
    row_of = {name: row for row, name in enumerate(donors.names)}
    seen: list[str] = []
    for pair in drawn(donors, held_out=held_out):
        rows = [row_of[str(genes.cell)] for genes in pair.prompt.lists]
        assert 5 <= len(rows) <= 20
        assert len({len(genes.symbols) for genes in pair.prompt.lists}) == 1
        assert pair.prompt.n_genes <= 7
        assert {bool(donors.test[row]) for row in rows} == {held_out}
        [(_, tissue)] = {tuple(donors.obs[["donor", "tissue"]].iloc[row]) for row in rows}
        assert pair.completion == f" {tissue}."
        seen += [str(genes.cell) for genes in pair.prompt.lists]
    assert len(seen) == len(set(seen))
    assert seen


def test_draws_differ_and_repeat(donors: TrainingCells) -> None:
    first = [pair.prompt.text for pair in drawn(donors)]
    assert first == [pair.prompt.text for pair in drawn(donors)]
    assert first != [pair.prompt.text for pair in drawn(donors, draw=1)]
