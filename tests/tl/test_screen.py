"""tl.screen: effects beside slow twins, batches, resumed screens, contrasts, mistakes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import tiny
from anndata_objects import QUIET
from cells import GENES, fake, log_normalised
from typed_cells import typed

import cell2sen as c2s

SET = ["LYZ", "NKG7", "CD3D"]
NAMED = {"no_perturbation": "no perturbation"}


@pytest.fixture(scope="module")
def backend() -> Any:
    return tiny.backend("gpt_neox", "bytes", model=fake(**NAMED).model)


def cells(n: int = 48) -> anndata.AnnData:
    adata = typed(n, seed=1, types=("B cell", "T cell"))
    generator = np.random.default_rng(3)
    adata.obs["treatment"] = [["control", "KO1", "KO2"][number] for number in generator.integers(0, 3, n)]
    return adata


def screened(adata: anndata.AnnData, **options: Any) -> pd.DataFrame:
    merged: Any = {"model": fake(**NAMED), "min_cells": 3, "n_null": 20, **QUIET, **options}
    return c2s.tl.screen(adata, **merged)


def test_measured_groups_by_hand() -> None:
    adata = cells()
    table = screened(
        adata, gene_set=SET, measured=True, perturbation_column="treatment", screen_by="cell_type",
        contrast=("B cell", "T cell"),
    ).set_index(["context", "item"])  # fmt: skip
    score = log_normalised(adata)[:, [GENES.index(gene) for gene in SET]].mean(axis=1)
    effects = {}
    for context in ("B cell", "T cell"):
        in_context = (adata.obs["cell_type"] == context).to_numpy()
        for name in ("KO1", "KO2"):
            group, control = (score[in_context & (adata.obs["treatment"] == value)] for value in (name, "control"))
            effects[context, name] = group.mean() - control.mean()
            assert table.loc[(context, name), "effect"] == pytest.approx(effects[context, name], rel=1e-4)
    for name in ("KO1", "KO2"):
        row = table.loc[("B cell − T cell", name)]
        assert row["effect"] == pytest.approx(effects["B cell", name] - effects["T cell", name], rel=1e-4)
        assert row["low"] < row["effect"] < row["high"]
    assert adata.uns["cell2sen"]["screen"]["table"].equals(
        table.reset_index()[adata.uns["cell2sen"]["screen"]["table"].columns]
    )
    assert set(table["rank"]) == {1, 2}
    assert (table["p"] >= 1 / 21).all()


def test_perturbations_are_those_of_perturb() -> None:
    adata = cells(20)
    table = screened(adata, gene_set=SET, perturbations="IFN-beta", control=())
    predicted = c2s.tl.perturb(adata, "IFN-beta", control=(), model=fake(**NAMED), **QUIET)
    columns = [GENES.index(gene) for gene in SET]
    assert table["effect"].item() == pytest.approx(predicted.layers["delta"].toarray()[:, columns].mean(), rel=1e-4)


def test_deleted_genes_in_the_embedding_by_hand(backend: Any) -> None:
    """Slow twin: the gene's counts set to 0, all cells embedded again."""
    adata = typed(16, seed=1, types=("B cell", "T cell"))
    options: dict[str, Any] = {"model": backend, **QUIET}
    table = screened(
        adata, direction=("B cell", "T cell"), groupby="cell_type", delete=["CD4", "LYZ+B2M"], control=(), n_null=0,
        **options,
    ).set_index("item")  # fmt: skip

    def embedded(data: anndata.AnnData) -> np.ndarray:
        c2s.tl.embed(data, **options)
        return np.asarray(data.obsm["X_cell2sen"], dtype=np.float64)

    before, is_b = embedded(adata.copy()), (adata.obs["cell_type"] == "B cell").to_numpy()
    way = before[~is_b].mean(axis=0) - before[is_b].mean(axis=0)
    for item, genes in (("CD4", ["CD4"]), ("LYZ+B2M", ["LYZ", "B2M"])):
        edited = adata.copy()
        dense = edited.X.toarray()
        dense[:, [GENES.index(gene) for gene in genes]] = 0
        edited.X = type(adata.X)(dense)
        shift = (embedded(edited) - before)[is_b] @ way / (way @ way)
        assert table.loc[item, "effect"] == pytest.approx(shift.mean(), abs=1e-5)
        assert table.loc[item, "n_cells"] == is_b.sum()


@pytest.mark.parametrize("goal", [{"gene_set": SET, "space": "expression"}, {"label": "B cell"}, {"gene_set": SET}])
def test_no_result_depends_on_batch_order_or_neighbours(goal: dict[str, Any], backend: Any) -> None:
    adata = typed(24, seed=2)
    kind = fake(**NAMED) if "space" in goal else backend
    items: dict[str, Any] = {"overexpress": ["CD4", "NKG7"], "control": (), "n_null": 0, "model": kind, **goal}
    together = screened(adata, **items).set_index("item")
    shuffled = adata[np.random.default_rng(0).permutation(24)].copy()
    again = screened(shuffled, batch_size=3, **{**items, "overexpress": ["NKG7", "CD4", "LYZ"]}).set_index("item")
    for item in ("CD4", "NKG7"):
        assert again.loc[item, "effect"] == pytest.approx(together.loc[item, "effect"], abs=1e-5)
    assert together["in_goal"].to_dict() == {"CD4": False, "NKG7": "gene_set" in goal}


def test_screens_continue(tmp_path: Path, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = typed(24, seed=2)
    items: dict[str, Any] = {"delete": "all", "gene_set": SET, "control": (), "model": backend}
    whole = screened(adata, **items)
    first = screened(adata, resume=tmp_path / "parts", **items)
    n_read = []
    monkeypatch.setattr(
        "cell2sen.inference.screen.kinds._shifts", lambda *arguments: n_read.append(1) or np.zeros((1, 1))
    )
    again = screened(adata, resume=tmp_path / "parts", **items)
    assert not n_read
    pd.testing.assert_frame_equal(first, whole)
    pd.testing.assert_frame_equal(again, whole)
    assert whole["null"].eq("edits of matched genes").all()
    assert len(whole) > 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gene_set": SET}, "pass what is screened"),
        ({"gene_set": SET, "delete": "CD4", "measured": True, "perturbation_column": "treatment"}, "pass space="),
        ({"gene_set": SET, "measured": True}, "perturbation_column="),
        ({"gene_set": SET, "delete": "CD4", "screen_by": "cell_type", "screen_in": "X"}, "has no 'X'"),
        ({"direction": ("B cell", "X"), "groupby": "cell_type", "delete": "CD4"}, "no cell 'X'"),
        ({"direction": ("B cell", "T cell"), "delete": "CD4"}, "groupby="),
        ({"label": "X", "delete": "CD4"}, "label must be one of"),
        ({"gene_set": SET, "delete": "CD4", "min_cells": 99}, "no context has 99 cells"),
        ({"gene_set": SET, "delete": "CD4", "contrast": ("B cell", "T cell")}, "screen_by="),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        screened(cells(24), **options)


def test_a_useless_probe_gives_a_warning(caplog: pytest.LogCaptureFixture, backend: Any) -> None:
    adata = typed(30, seed=2, types=("B cell",))
    with caplog.at_level(logging.WARNING, "cell2sen"):
        screened(adata, gene_set=["CD44"], delete="CD4", control=(), n_null=0, model=backend)
    assert abs(adata.uns["cell2sen"]["screen"]["goal"]["probe_r"]) <= 1
