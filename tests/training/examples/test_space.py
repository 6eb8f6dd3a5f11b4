"""Training pairs of cells in space: one side of the split, right answers, settings that are needed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sections import NICHES, section

import cell2sen as c2s
from cell2sen import tasks, training
from cell2sen.training.config.data import Augmentation, TrainingFile
from cell2sen.training.config.training_file import build
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.pairs import Pair, pairs

NAMES = ("niche", "same_neighbourhood", "same_niche", "neighbour")
ENTRY: dict[str, Any] = {
    "file": "cells.h5ad",
    "tasks": list(NAMES),
    "columns": {"niche": "layer"},
    "matrix": {"space": {"radius": 1.6, "n_cells": 4}},
    "split": {"by": "space", "test": 0.25},
}


def training_cells(folder: Path, side: int = 12, **changes: Any) -> TrainingCells:
    section(side).write_h5ad(folder / "cells.h5ad")
    file: TrainingFile = build(TrainingFile, ENTRY | changes)
    return TrainingCells(file, folder, "upper")


def drawn(cells: TrainingCells, held_out: bool = False, draw: int = 0) -> list[Pair]:
    return list(
        pairs(
            cells,
            {name: tasks.load(name) for name in cells.data.tasks},
            draw=draw,
            held_out=held_out,
            lengths=dict.fromkeys(NAMES, 6),
            augmentation=Augmentation(),
            seed=0,
        )
    )


def test_the_split_is_that_of_the_tool(tmp_path: Path) -> None:
    cells = training_cells(tmp_path)
    adata = section(12)
    c2s.tl.held_out_regions(adata, share=0.25, radius=1.6)
    names = np.array(cells.names)
    assert set(names[cells.test]) == set(adata.obs_names[adata.obs["region"] == "held out"])
    assert set(names[~cells.test]) == set(adata.obs_names[adata.obs["region"] == "training"])
    assert cells.matrix.shape[0] == len(names)
    assert cells.space is not None
    assert len(cells.space.neighbourhoods) == len(names)


@pytest.mark.parametrize("held_out", [False, True])
def test_pairs_are_right_and_of_one_side(tmp_path: Path, held_out: bool) -> None:
    cells = training_cells(tmp_path)
    place = {name: row for row, name in enumerate(cells.names)}
    assert cells.space is not None
    where, niche = cells.space.coordinates, cells.values("niche")
    counts = Counter()
    for pair in drawn(cells, held_out):
        rows = [place[str(genes.cell)] for genes in pair.prompt.lists]
        assert {bool(cells.test[row]) for row in rows} == {held_out}
        near = all(np.linalg.norm(where[rows[0]] - where[row]) <= 1.6 for row in rows[1:])
        if pair.task == "niche":
            assert pair.completion == f" {niche[rows[0]]}."
        elif pair.task == "same_neighbourhood":
            assert pair.completion == (" yes." if near else " no.")
        elif pair.task == "same_niche":
            assert pair.completion == (" yes." if len(set(niche[rows])) == 1 else " no.")
        else:
            assert near
            assert len(pair.completion.split()) <= 6
        counts[pair.task, pair.completion] += 1
        assert len(rows) <= 4
    n = int((cells.test == held_out).sum())
    assert sum(counts["niche", f" {name}."] for name in NICHES) == n
    for name in NAMES[1:3]:
        assert counts[name, " yes."] == counts[name, " no."] == n


def test_draws_differ_and_are_reproducible(tmp_path: Path) -> None:
    cells = training_cells(tmp_path)
    first = [(pair.prompt.text, pair.completion) for pair in drawn(cells)]
    assert first == [(pair.prompt.text, pair.completion) for pair in drawn(cells)]
    assert first != [(pair.prompt.text, pair.completion) for pair in drawn(cells, draw=1)]


def test_settings_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs its neighbourhoods, such as matrix: \{space"):
        training_cells(tmp_path, matrix={})
    cells = training_cells(tmp_path, matrix={}, split={}, tasks=["same_neighbourhood"])
    with pytest.raises(ValueError, match="needs the neighbourhoods"):
        drawn(cells)
    cells = training_cells(tmp_path, columns={}, tasks=["same_niche"])
    with pytest.raises(ValueError, match="need the obs column of 'niche'"):
        drawn(cells)


@pytest.mark.slow
def test_learned_and_scored_on_a_region_left_out(tmp_path: Path) -> None:
    section(14).write_h5ad(tmp_path / "cells.h5ad")
    config = training.from_mapping(
        {
            "model": {"from_scratch": {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64}},
            "data": {
                "lengths": dict.fromkeys(NAMES, 8),
                "files": [ENTRY | {"tasks": {"niche": 20, "same_niche": 2}}],
            },
            "optimiser": {"learning_rate": 0.01, "batch_size": 16},
            "compute": {"bf16": False},
        }
    )
    training.train(config, tmp_path / "model", base=tmp_path, progress=False)
    adata = section(14)
    c2s.tl.held_out_regions(adata, share=0.25, radius=1.6)
    held_out = adata[adata.obs["region"] == "held out"].copy()
    c2s.tl.niche(held_out, model=str(tmp_path / "model"), progress=False)
    assert (held_out.obs["cell2sen_niche"].astype(str) == held_out.obs["layer"].astype(str)).mean() > 0.9


def test_ligands_and_receptors(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("ligand,receptor\nCD4,LYZ\nCD4,CD44\nIL7,IL7R\n", encoding="utf-8")
    space = {"radius": 1.6, "interactions": "pairs.csv"}
    cells = training_cells(tmp_path, matrix={"space": space}, tasks={"receptors": 1})
    learned = [(pair.prompt.text.split("ligand ")[1].split(",")[0], pair.completion) for pair in drawn(cells)]
    assert learned == [("CD4", " CD44 LYZ."), ("IL7", " IL7R.")]
    assert not drawn(cells, held_out=True)
    cells = training_cells(tmp_path, tasks={"receptors": 1})
    with pytest.raises(ValueError, match="needs a table of ligands and receptors"):
        drawn(cells)
