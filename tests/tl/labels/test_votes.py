"""Votes of clusters and unseen scores of tl.annotate."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata_objects import QUIET
from cells import fake
from typed_cells import TYPES, typed

import cell2sen as c2s
from cell2sen.inference.novelty.offered_labels import NoneOfThese
from cell2sen.tl.labels import votes

KEY = "cell2sen_cell_type"


def annotated(adata: Any, **options: Any) -> Any:
    options = {"model": fake(), **QUIET, **options}
    return c2s.tl.annotate(adata, list(TYPES), copy=True, **options)


def test_vote_of_given_clusters(tmp_path: Path) -> None:
    adata = typed(30, seed=1)
    plain = annotated(adata)
    voted = annotated(adata, cluster="donor")
    pd.testing.assert_frame_equal(voted.obs[plain.obs.columns], plain.obs)
    for donor, cells in voted.obs.groupby("donor", observed=True):
        counts = cells[KEY].astype(str).value_counts()
        winner = cells[f"{KEY}_majority_voting"].astype(str).unique().tolist()
        assert len(winner) == 1
        assert counts[winner[0]] == counts.max()
        np.testing.assert_allclose(cells[f"{KEY}_majority_share"], counts.max() / len(cells))
        assert set(cells[f"{KEY}_cluster"]) == {donor}
    voted.write_h5ad(tmp_path / "out.h5ad")
    table = anndata.read_h5ad(tmp_path / "out.h5ad").uns["cell2sen"]["annotate"]["clusters"]
    assert table.index.tolist() == ["d0", "d1", "d2", "d3"]
    assert table["n_cells"].sum() == 30
    with pytest.raises(KeyError, match="has no column 'group'"):
        annotated(adata, cluster="group")


@pytest.mark.filterwarnings("ignore")
def test_vote_of_leiden_clusters() -> None:
    pytest.importorskip("igraph")
    voted = annotated(typed(40, seed=1), majority_voting=True)
    assert voted.obs[f"{KEY}_cluster"].notna().all()
    assert voted.uns["cell2sen"]["annotate"]["clusters_of"] == "Leiden on the embedding"


def test_unseen_scores_need_a_record_of_held_out_cells() -> None:
    adata = typed(30, seed=1)
    with pytest.raises(ValueError, match=r"use tl\.transfer with a reference"):
        annotated(adata, unseen=True)
    quantiles = np.linspace(0.3, 1.0, 21).tolist()
    model = fake(calibration={"annotate": {"temperature": 1.0, "certainty": quantiles}})
    scored = annotated(adata, unseen=True, model=model)
    certainty = c2s.tl.probabilities(scored).max(axis=1)
    expected = np.clip(1 - (certainty - 0.3) / 0.7, 0, 1)
    np.testing.assert_allclose(scored.obs[f"{KEY}_unseen"], expected, atol=1e-6)


def test_unseen_scores_of_a_density_and_the_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scores = np.linspace(0.9, 1.0, 30)
    density = SimpleNamespace(unseen=lambda sentences: scores[: len(sentences)])
    monkeypatch.setattr(votes, "load_density", lambda model: density)
    scored = annotated(typed(30, seed=1), unseen=True)
    np.testing.assert_array_equal(scored.obs[f"{KEY}_unseen"], scores)
    assert "50% of the cells are unlike" not in caplog.text  # not more than half
    scores += 0.01
    annotated(typed(30, seed=1))
    assert "60% of the cells are unlike those that fake was trained on" in caplog.text


def test_cells_above_the_unseen_limit_have_no_label_and_no_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.linspace(0.0, 1.0, 30)
    monkeypatch.setattr(votes, "load_density", lambda model: SimpleNamespace(unseen=lambda sentences: scores))
    adata = typed(30, seed=1)
    plain, limited = annotated(adata), annotated(adata, unseen_above=0.5, cluster="donor")
    expected = np.where(scores > 0.5, "unknown", plain.obs[KEY].astype(str))
    assert limited.obs[KEY].astype(str).tolist() == expected.tolist()
    np.testing.assert_array_equal(limited.obs[f"{KEY}_unseen"], scores)
    for _, cells in limited.obs.groupby("donor", observed=True):
        counted = cells.loc[cells[KEY] != "unknown", KEY].astype(str).value_counts()
        np.testing.assert_allclose(cells[f"{KEY}_majority_share"], counted.max() / counted.sum())
    assert limited.uns["cell2sen"]["annotate"]["unseen_above"] == 0.5
    with pytest.raises(ValueError, match="unseen_above must be a score"):
        annotated(adata, unseen_above=2)


def test_none_of_these_is_a_warning_or_an_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def found(session: Any, offered: Any, rows: Any) -> NoneOfThese:
        assert tuple(offered) == tuple(TYPES)
        return NoneOfThese(probability=np.linspace(0, 1, 30), preferred=("neuron",) * 30)

    monkeypatch.setattr(votes, "none_of_these", found)
    adata = typed(30, seed=1)
    plain = annotated(adata)
    assert "for 50% of the cells none of the offered labels fits" in caplog.text
    assert f"{KEY}_none_of_these" not in plain.obs
    answered = annotated(adata, none_of_these=True)
    np.testing.assert_allclose(answered.obs[f"{KEY}_none_of_these"], np.linspace(0, 1, 30))
    expected = [*plain.obs[KEY].astype(str)[:15], *["unknown"] * 15]
    assert answered.obs[KEY].astype(str).tolist() == expected
