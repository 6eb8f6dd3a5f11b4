"""Gene part of a training: its file, scaled parts, none without the setting or with too few cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import training_cells
from cells import fake

from cell2sen.inference.gene_part import load_gene_part
from cell2sen.inference.session import Session, start
from cell2sen.model import Model
from cell2sen.training.config.data import LabelColumn, TrainingFile
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.release import fit_gene_part


@pytest.fixture(autouse=True)
def without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_gene_part, "resolve", lambda folder: fake().model)
    monkeypatch.setattr(fit_gene_part, "load_model", lambda options: fake())


def opened(folder: Path, n: int) -> TrainingCells:
    training_cells.write(folder / "cells.h5ad", n=n)
    return TrainingCells(TrainingFile(file="cells.h5ad", cell_type=LabelColumn(column="cell_type")), folder, "upper")


def session_of(cells: TrainingCells) -> Session:
    return start(cells.anndata(np.arange(len(cells.names))), "embed", {"model": fake(), "progress": False})


def test_types_are_apart_and_the_file_is_the_same_again(tmp_path: Path) -> None:
    cells = opened(tmp_path, 200)
    assert fit_gene_part.fit_gene_part(tmp_path, [cells], 5)
    part = load_gene_part(Model(name="own", path=str(tmp_path)))
    assert part is not None
    vectors = part.vectors(session_of(cells).sentences, None)
    assert vectors.shape == (200, 5)
    assert np.linalg.norm(vectors, axis=1).mean() == pytest.approx(1, abs=0.3)  # also of other technologies
    assert cells.label is not None
    distance = np.linalg.norm(vectors[:, None] - vectors, axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (cells.label[distance.argmin(axis=1)] == cells.label).mean() > 0.9
    first = (tmp_path / "gene_part.npz").read_bytes()
    fit_gene_part.fit_gene_part(tmp_path, [cells], 5)
    assert (tmp_path / "gene_part.npz").read_bytes() == first


def test_no_file_without_the_setting_or_cells(tmp_path: Path) -> None:
    assert not fit_gene_part.fit_gene_part(tmp_path, [opened(tmp_path, 60)], 0)
    assert not fit_gene_part.fit_gene_part(tmp_path, [], 5)
    held_out = opened(tmp_path, 60)
    held_out.test[:] = True
    assert not fit_gene_part.fit_gene_part(tmp_path, [held_out], 5)
    assert not (tmp_path / "gene_part.npz").exists()
