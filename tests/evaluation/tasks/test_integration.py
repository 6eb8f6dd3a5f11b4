"""Profiles among their cells: embeddings of known quality beside expression."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cell2sen import tl
from cell2sen.evaluation.evaluate import evaluate


@pytest.fixture(scope="module")
def sides() -> tuple[ad.AnnData, ad.AnnData]:
    """Pseudobulk profiles and cells of six groups, whose embeddings are the group and noise."""
    rng = np.random.default_rng(0)
    base = rng.gamma(0.4, 3, size=(6, 200)) * 3
    group = np.repeat(np.arange(6), 25)
    cells = ad.AnnData(
        sp.csr_matrix(rng.poisson(base[group]).astype(np.float32)),
        obs=pd.DataFrame({"kind": [f"g{g}" for g in group]}, index=[f"c{n}" for n in range(150)]),
        var=pd.DataFrame(index=[f"GENE{n}" for n in range(200)]),
    )
    profiles = tl.pseudobulk(cells, "kind")
    centres = rng.standard_normal((6, 8))
    cells.obsm["X_cell2sen"] = centres[group] + 0.01 * rng.standard_normal((150, 8))
    cells.obsm["X_noise"] = rng.standard_normal((150, 8))
    profiles.obsm["X_cell2sen"] = centres * 7  # the cosine does not depend on lengths
    profiles.obsm["X_noise"] = rng.standard_normal((6, 8))
    return profiles, cells


def test_perfect_and_random_embeddings(sides: tuple[ad.AnnData, ad.AnnData], tmp_path: Path) -> None:
    profiles, cells = sides
    evaluation = evaluate(profiles, cells, task="integrate", context="kind", resamples=30)
    row = evaluation.table.loc["foscttm_of_profiles"]
    assert row["prediction"] == 0
    assert row["expression_correlation"] < 0.05
    assert row["ceiling"] == 0
    noise = evaluate(profiles, cells, task="integrate", context="kind", embedding="X_noise", resamples=30)
    row = noise.table.loc["foscttm_of_profiles"]
    assert 0.3 < row["prediction"] < 0.7
    assert row["low"] < row["prediction"] < row["high"]
    assert row["low_groups"] < row["prediction"] < row["high_groups"]
    assert row["verdict"] == "worse"
    assert evaluation.settings["cells_per_profile"] == 10
    pytest.importorskip("jinja2")
    assert "Profiles among single cells" in noise.report(tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_order_of_files_changes_nothing(sides: tuple[ad.AnnData, ad.AnnData]) -> None:
    profiles, cells = sides
    options = {"task": "integrate", "context": "kind", "embedding": "X_noise", "resamples": 10}
    first = evaluate(profiles, cells, **options).table
    other = evaluate(profiles[::-1].copy(), cells[::-1].copy(), **options).table
    pd.testing.assert_frame_equal(first, other, check_exact=False)


def test_errors(sides: tuple[ad.AnnData, ad.AnnData]) -> None:
    profiles, cells = sides
    with pytest.raises(ValueError, match="needs context="):
        evaluate(profiles, cells, task="integrate")
    with pytest.raises(KeyError, match="has no 'X_other'; available: "):
        evaluate(profiles, cells, task="integrate", context="kind", embedding="X_other")
    with pytest.raises(ValueError, match="only one profile has cells"):
        evaluate(profiles, cells[cells.obs["kind"] == "g1"].copy(), task="integrate", context="kind")
    twice = ad.concat([profiles, profiles], index_unique="-", uns_merge="first")
    with pytest.raises(ValueError, match="profiles must differ in"):
        evaluate(twice, cells, task="integrate", context="kind")
