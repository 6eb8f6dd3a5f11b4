"""Labels of each cell of samples, against all assignments and single prompts."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import tiny
from cells import cells, fake

import cell2sen as c2s
from cell2sen.backend import Backend
from cell2sen.inference.annotate import closed_set, samples_of_cells
from cell2sen.inference.samples.labels import label_cells
from cell2sen.inference.session import Session
from cell2sen.prompt import Prompt

LABELS = ["B cell", "CD4 T cell", "NK cell", "platelet", "monocyte", "mast cell", "neutrophil", "T cell"]


def donors(n: int = 17):
    """Cells of two donors; the last one has none."""
    adata = cells(n)
    adata.obs["donor"] = pd.Categorical([f"d{row % 2}" if row < n - 1 else None for row in range(n)])
    return adata


def session(backend: Backend, adata=None, max_genes: int = 4) -> Session:
    from cell2sen.inference.session import start

    options = {"model": backend, "max_genes": max_genes, "progress": False}
    return start(donors() if adata is None else adata, "sample_cell_types", options, obs_columns=["donor"])


def scores_behind_plain_text(opened: Session, rows: list[int], answered: list[str]) -> np.ndarray:
    """Log-probabilities of the label of the cell after `answered`, from one plain text."""
    [prompt] = opened.task.prompts(opened.sentences, [rows], length=opened.length)
    text = prompt.text + "".join(f"\nCell {number + 1}: {name}." for number, name in enumerate(answered))
    plain = Prompt.of_cell(f"{text}\nCell {len(answered) + 1}:")
    [scores] = opened.backend.score([plain], [f" {name}." for name in LABELS])
    return scores - np.logaddexp.reduce(scores)


def test_labels_in_turn_equal_those_behind_plain_text() -> None:
    opened = session(tiny.backend())
    samples = samples_of_cells(opened, ["donor"], n_cells=5)
    found = label_cells(opened, closed_set(opened.task, opened.model, LABELS), samples)
    picked, scores = found.pick()
    for rows in samples:
        answered: list[str] = []
        for row in rows:
            logs = scores_behind_plain_text(opened, rows.tolist(), answered)
            np.testing.assert_allclose(found.probabilities[row], np.exp(logs), rtol=1e-3)
            answered.append(LABELS[int(logs.argmax())])
            assert picked[row] == answered[-1]
    assert picked[16] == "unknown"
    assert scores[16] == 0


def test_different_labels_have_the_highest_product_of_all_assignments() -> None:
    opened = session(tiny.backend())
    samples = samples_of_cells(opened, ["donor"], n_cells=5)
    found = label_cells(opened, closed_set(opened.task, opened.model, LABELS), samples, distinct=True)
    picked, scores = found.pick()
    for rows in samples:
        logs = np.array(
            [scores_behind_plain_text(opened, np.roll(rows, -place).tolist(), []) for place in range(len(rows))]
        )
        np.testing.assert_allclose(found.probabilities[rows], np.exp(logs), rtol=1e-3)
        best = max(
            permutations(range(len(LABELS)), len(rows)),
            key=lambda chosen: sum(logs[place, label] for place, label in enumerate(chosen)),
        )
        assert [picked[row] for row in rows] == [LABELS[label] for label in best]
        np.testing.assert_allclose(scores[rows], np.exp([logs[place, label] for place, label in enumerate(best)]), 1e-3)
    assert picked[16] == "unknown"


@pytest.mark.parametrize("distinct", [False, True])
def test_a_label_depends_on_its_sample_alone(distinct: bool) -> None:
    adata, backend = donors(), fake()
    options = {"task": "sample_cell_types", "sample_by": "donor", "n_cells": 5, "model": backend, "distinct": distinct}
    c2s.tl.annotate(adata, LABELS, **options)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    some = adata[order][adata.obs["donor"].to_numpy()[order] != "d1"].copy()
    c2s.tl.annotate(some, LABELS, batch_size=1, **options)
    rows = adata.obs_names.get_indexer(some.obs_names)
    assert some.obs["cell2sen_cell_type"].tolist() == adata.obs["cell2sen_cell_type"].iloc[rows].tolist()
    np.testing.assert_allclose(
        some.obsm["cell2sen_cell_type_probabilities"], adata.obsm["cell2sen_cell_type_probabilities"].iloc[rows]
    )
    assert bool(adata.uns["cell2sen"]["annotate"]["distinct"]) == distinct


def test_spellings_of_a_label_are_pooled() -> None:
    """A label that stands for two trained ones has the sum of their probabilities."""
    backend = fake(spellings={"CD4 T cell": ["T cell"], "NK cell": ["T cell"]})
    opened = session(backend)
    samples = samples_of_cells(opened, ["donor"], n_cells=5)
    apart = label_cells(opened, closed_set(opened.task, opened.model, ["B cell", "CD4 T cell", "NK cell"]), samples)
    pooled = label_cells(opened, closed_set(opened.task, opened.model, ["B cell", "T cell"]), samples)
    firsts = [rows[0] for rows in samples]  # later cells depend on the labels before them
    np.testing.assert_allclose(pooled.probabilities[firsts, 1], apart.probabilities[firsts, 1:].sum(axis=1))


def test_refused() -> None:
    options = {"task": "sample_cell_types", "model": fake()}
    with pytest.raises(ValueError, match="10 cells of a sample cannot have different labels of 8"):
        c2s.tl.annotate(donors(21), LABELS, sample_by="donor", n_cells=10, distinct=True, **options)
    with pytest.raises(ValueError, match="reads samples of cells: name the obs columns"):
        c2s.tl.annotate(donors(), LABELS, **options)
    with pytest.raises(ValueError, match="distinct is for tasks with a label for each cell of a sample"):
        c2s.tl.annotate(donors(), LABELS, distinct=True, model=fake())
    with pytest.raises(ValueError, match=r"task must have a label or a number as its answer, found \['ask'\]"):
        c2s.tl.annotate(donors(), LABELS, task="ask", sample_by="donor", n_cells=5, model=fake())
