"""Density of a training's cells: what is written, cells of a type left out, and too few cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import training_cells

from cell2sen.inference.novelty.training_density import load_density
from cell2sen.model import Model
from cell2sen.training.config.data import Augmentation, LabelColumn, TrainingFile
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.release.fit_density import MAX_LABEL_CELLS, _chosen, fit_density


def opened(folder: Path, **names: str | None) -> TrainingCells:
    label = LabelColumn(column="cell_type", names=names)  # type: ignore[arg-type]
    return TrainingCells(TrainingFile(file="cells.h5ad", cell_type=label), folder, "upper")


def test_cells_of_a_type_that_was_left_out_stand_out(tmp_path: Path) -> None:
    training_cells.write(tmp_path / "cells.h5ad", n=300)
    cells = opened(tmp_path)
    monocyte = cells.label == "monocyte"
    assert cells.label is not None
    known = opened(tmp_path)
    known.keep(np.flatnonzero(~monocyte))
    assert fit_density(tmp_path, [known])
    density = load_density(Model(name="own", path=str(tmp_path)))
    assert density is not None
    sentences = cells.sentences(0, Augmentation(), 0)
    unseen = density.unseen(sentences)
    assert np.median(unseen[monocyte]) > np.quantile(unseen[~monocyte & cells.test], 0.75)
    first = (tmp_path / "training_density.npz").read_bytes()
    fit_density(tmp_path, [known])
    assert (tmp_path / "training_density.npz").read_bytes() == first


def test_too_few_cells(tmp_path: Path) -> None:
    training_cells.write(tmp_path / "cells.h5ad", n=2)
    assert not fit_density(tmp_path, [opened(tmp_path)])
    assert not fit_density(tmp_path, [])  # a training on a corpus or on gene sets
    assert not (tmp_path / "training_density.npz").exists()


def test_rare_labels_keep_their_cells() -> None:
    names = np.array(["common"] * 5000 + ["rare"] * 3, dtype=object)
    rows = _chosen(names, np.arange(len(names)), np.random.default_rng(0))
    assert sorted(rows) == rows.tolist()
    assert (names[rows] == "rare").sum() == 3
    assert (names[rows] == "common").sum() == MAX_LABEL_CELLS
