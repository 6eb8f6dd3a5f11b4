"""Every task gives the same results in any batch, any order, and beside unrelated cells, conditions or gene sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import tiny
from cells import GENES, LABELS, cells
from sections import tissue_of_donors

from cell2sen import tl

#: Limit of the differences of numbers: the documented rounding of batches.
ROUNDING = 1e-5

SHORT: dict[str, Any] = {"max_genes": 6, "progress": False}
DRAWN: dict[str, Any] = {"temperature": 1.0, "seed": 3, **SHORT}
NEAR: dict[str, Any] = {"radius": 1.1, "section": "section"}

#: Inputs of verbs without cells; each list is reversed, and extended by others.
TISSUES, SETS = ["blood", "lung"], {"first": GENES[:5], "second": GENES[4:12]}


def backend(batch_size: int | None = None) -> Any:
    return tiny.backend("gemma2", "spm", batch_size=batch_size)


def of_cells(verb: Callable[..., Any], **options: Any) -> Callable[..., pd.DataFrame]:
    """Columns of obs that a verb writes for each cell, and arrays of obsm."""

    def run(adata: anndata.AnnData, model: Any) -> pd.DataFrame:
        written = adata.copy()
        verb(written, model=model, **options)
        table = written.obs[[name for name in written.obs if name not in adata.obs]].astype(object)
        for key in written.obsm.keys() - adata.obsm.keys():
            table[key] = list(np.asarray(written.obsm[key]))
        assert len(table.columns)
        return table

    return run


def annotate(labels: Any = LABELS, **options: Any) -> Callable[..., pd.DataFrame]:
    return of_cells(tl.annotate, labels=labels, **SHORT, **options)


def rows_of(verb: Callable[..., Any], **options: Any) -> Callable[..., pd.DataFrame]:
    """Table that a verb returns, or obs of the AnnData."""

    def run(given: Any, model: Any) -> pd.DataFrame:
        result = verb(given.copy(), model=model, **options)
        table = result if isinstance(result, pd.DataFrame) else result.obs
        return table.astype(object)

    return run


SAMPLED: dict[str, Any] = {"sample_by": "donor", "n_cells": 5}
OF_CELLS: dict[str, Callable[..., pd.DataFrame]] = {
    "embed": of_cells(tl.embed, **SHORT),
    "embed with context": of_cells(tl.embed, context=["donor"], **SHORT),
    "annotate": annotate(),
    "identify": annotate(["IFN-beta", "none"], task="identify"),
    "several": annotate({"disease": ["flu", "none"], "age": [0, 4, 8]}, task=["label:disease", "number:age"]),
    "tissue": annotate(TISSUES, task="tissue", **SAMPLED),
    "sample_cell_types": annotate(task="sample_cell_types", **SAMPLED),
    "distinct": annotate(
        [*LABELS, *(f"type {number}" for number in range(6))], task="sample_cell_types", distinct=True, **SAMPLED
    ),
    "perturb": rows_of(tl.perturb, perturbation="IFN-beta", readout="sentence", n_genes=4, control=(), **DRAWN),
    "caption": rows_of(tl.caption, cluster="cluster", n_samples=2, max_new_tokens=5, **DRAWN),
    "interpret": rows_of(tl.interpret, sample_by="donor", n_cells=5, max_new_tokens=5, **DRAWN),
    "ask": rows_of(tl.ask, question="Which?", sample_by="donor", n_cells=3, max_new_tokens=5, **DRAWN),
    "niche": of_cells(tl.niche, labels=["inner", "outer"], **SHORT),
    "niche of neighbours": of_cells(tl.niche, labels=["inner", "outer"], pool=True, **SHORT, **NEAR),
    "same_niche": rows_of(tl.same_niche, niche="layer", n_cells=3, **SHORT, **NEAR),
    "same_neighbourhood": rows_of(tl.same_neighbourhood, n_cells=3, **SHORT, **NEAR),
    "neighbour": rows_of(tl.neighbour, n_cells=3, n_genes=4, **DRAWN, **NEAR),
}


def generated(verb: Callable[..., Any], **options: Any) -> Callable[..., pd.DataFrame]:
    return rows_of(verb, n=2, n_genes=4, genes=cells(9), **DRAWN, **options)


WITHOUT_CELLS: dict[str, tuple[Callable[..., pd.DataFrame], Any]] = {
    "generate": (generated(tl.generate), LABELS[:2]),
    "sample_from_tissue": (generated(tl.generate_sample, n_cells=3), TISSUES),
    "name_gene_set": (rows_of(tl.name_gene_sets, max_new_tokens=5, **DRAWN), SETS),
    "name_gene_set of names": (rows_of(tl.name_gene_sets, names=LABELS, **SHORT), SETS),
    "list_gene_set": (rows_of(tl.list_gene_sets, genes=GENES, n_genes=4, **DRAWN), list(SETS)),
}
#: Samples of one condition: only their number and the batches can differ.
OF_ONE: dict[str, dict[str, Any]] = {
    "sample_from_types": {"cell_types": LABELS},
    "sample_from_abstract": {"abstract": "We studied the blood.", "n_cells": 2},
    "write_cell": {"n_cells": 1},
    "write_sample": {"n_cells": 3},
}


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Rows of `found` with the names of `expected` have its values."""
    assert set(expected.columns) == set(found.columns)
    assert expected.index.is_unique
    for name, row in found.loc[expected.index].iterrows():
        for column, value in row.items():
            wanted = expected.loc[name, column]
            if isinstance(wanted, float | np.ndarray):
                np.testing.assert_allclose(value, wanted, rtol=ROUNDING, atol=ROUNDING, err_msg=f"{name}, {column}")
            else:
                assert value == wanted or (pd.isna(value) and pd.isna(wanted)), (name, column)


@pytest.mark.parametrize("name", OF_CELLS)
def test_tasks_of_cells(name: str) -> None:
    run, adata = OF_CELLS[name], tissue_of_donors()
    expected = run(adata, backend(batch_size=1))
    assert_same(run(adata, backend()), expected)
    assert_same(run(adata[::-1].copy(), backend(batch_size=3)), expected)
    strangers = tissue_of_donors(("d0", "d3"), seed=7)
    together = anndata.concat([strangers[:9], adata, strangers[9:]])
    together.uns["organism"] = "Homo sapiens"
    assert_same(run(together, backend(batch_size=4)), expected)


@pytest.mark.parametrize("name", WITHOUT_CELLS)
def test_tasks_of_conditions(name: str) -> None:
    run, given = WITHOUT_CELLS[name]
    expected = run(given, backend(batch_size=1))
    assert_same(run(given, backend()), expected)
    if isinstance(given, dict):
        assert_same(run({"other": GENES[10:17], **dict(reversed(given.items()))}, backend(batch_size=2)), expected)
    else:
        assert_same(run(["other", *reversed(given)], backend(batch_size=2)), expected)


@pytest.mark.parametrize("name", OF_ONE)
def test_tasks_of_one_condition(name: str) -> None:
    options = {**OF_ONE[name], "n_genes": 4, "genes": cells(9), **DRAWN}
    expected = tl.generate_sample(n=2, model=backend(batch_size=1), **options).obs.astype(object)
    assert_same(tl.generate_sample(n=5, model=backend(batch_size=3), **options).obs.astype(object), expected)
