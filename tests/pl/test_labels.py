from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from cells import LABELS, cells, fake

import cell2sen as c2s
from cell2sen.pl.labels import MAX_NAMES, confusion_counts


def drawn(axes: Any) -> np.ndarray:
    return np.ma.getdata(axes.images[0].get_array())


def names(ticks: Any) -> list[str]:
    return [tick.get_text() for tick in ticks]


def test_confusion_has_the_shares_of_each_row_and_agreement_on_the_diagonal() -> None:
    obs = pd.DataFrame(
        {
            "given": ["B cell"] * 4 + ["T cell"] * 3 + ["NK"] * 2 + [None, "B cell"],
            "predicted": ["B cells"] * 3 + ["T cell"] + ["T cell"] * 3 + ["natural killer"] * 2 + ["T cell", None],
        }
    )
    axes = c2s.pl.confusion(obs, "given", "predicted")
    assert names(axes.get_yticklabels()) == ["B cell (4)", "NK (2)", "T cell (3)"]
    assert names(axes.get_xticklabels()) == ["B cells", "natural killer", "T cell"]
    np.testing.assert_allclose(drawn(axes), [[0.75, 0, 0.25], [0, 1, 0], [0, 0, 1]])
    assert axes.get_title() == "9 cells; 2 without a label left out"
    counts = c2s.pl.confusion(obs, "given", "predicted", normalize=False)
    assert drawn(counts).sum() == 9
    assert not counts.texts


def test_rows_and_columns_of_a_real_crosstab() -> None:
    generator = np.random.default_rng(0)
    obs = pd.DataFrame({side: generator.choice(list("abcdef"), 200) for side in ("x", "y")})
    counts, n_missing = confusion_counts(obs, "x", "y")
    expected = pd.crosstab(obs["x"], obs["y"])
    pd.testing.assert_frame_equal(counts.loc[expected.index, expected.columns], expected, check_names=False)
    assert n_missing == 0


def test_a_thousand_labels_become_forty() -> None:
    generator = np.random.default_rng(0)
    obs = pd.DataFrame({"x": [f"type {n}" for n in generator.integers(0, 1000, 5000)], "y": ["one"] * 5000})
    counts, _ = confusion_counts(obs, "x", "y")
    assert counts.shape == (MAX_NAMES, 1)
    assert counts.to_numpy().sum() == 5000
    assert counts.index[-1] == f"{obs['x'].nunique() - MAX_NAMES + 1:,} others"
    c2s.pl.confusion(obs, "x", "y")


def test_confusion_of_nothing() -> None:
    obs = pd.DataFrame({"x": ["a", None], "y": [None, "b"]})
    with pytest.raises(ValueError, match=r"no cell has both labels, 'x' and 'y' \(2 cells\)"):
        c2s.pl.confusion(obs, "x", "y")
    with pytest.raises(ValueError, match="0 cells"):
        c2s.pl.confusion(obs[:0], "x", "y")
    with pytest.raises(KeyError, match=r"no column 'z'; available: \['x', 'y'\]"):
        c2s.pl.confusion(obs, "x", "z")


@pytest.fixture
def annotated() -> anndata.AnnData:
    adata = cells(12)
    c2s.tl.annotate(adata, [*LABELS, "a/b"], model=fake(), progress=False)
    adata.obs["cluster"] = pd.Categorical([*"xxxyyyxxxzz", None])
    return adata


def test_probabilities_are_the_means_of_the_clusters(annotated: anndata.AnnData, tmp_path: Path) -> None:
    annotated.obsm["cell2sen_cell_type_probabilities"].iloc[0] = np.nan  # a cell without genes
    axes = c2s.pl.probabilities(annotated, "cluster", save=tmp_path / "a.png")
    table = c2s.tl.probabilities(annotated)
    expected = table.groupby(annotated.obs["cluster"], observed=True).mean()
    columns = names(axes.get_xticklabels())
    assert sorted(columns) == sorted([*LABELS, "a/b"])
    np.testing.assert_allclose(drawn(axes), expected[columns], rtol=1e-12)
    assert names(axes.get_yticklabels()) == ["x (5)", "y (3)", "z (2)"]
    fewer = c2s.pl.probabilities(annotated, "cluster", n_labels=2)
    assert len(fewer.get_xticklabels()) == 2
    assert "2 rarer ones left out" in fewer.get_title()


def test_probabilities_of_nothing(annotated: anndata.AnnData) -> None:
    with pytest.raises(KeyError, match="no column 'clusters'"):
        c2s.pl.probabilities(annotated, "clusters")
    with pytest.raises(KeyError, match="no 'None_probabilities', which"):
        c2s.pl.probabilities(cells(), "donor")
    annotated.obs["cluster"] = None
    with pytest.raises(ValueError, match="no cell has a value of 'cluster'"):
        c2s.pl.probabilities(annotated, "cluster")
