"""Collected results: complete, from verified shards only."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
from cells import LABELS

from cell2sen import atlas, tl


@pytest.fixture
def done(planned) -> Path:
    folder, _ = planned("annotate", labels=LABELS)
    atlas.run(folder, progress=False)
    return folder


def test_zarr_and_h5ad_have_the_same(done, tmp_path) -> None:
    files = [atlas.collect(done, tmp_path / f"all{suffix}", progress=False)[0] for suffix in (".h5ad", ".zarr")]
    one, other = anndata.read_h5ad(files[0]), anndata.read_zarr(files[1])
    assert one.obs.astype(str).equals(other.obs.astype(str))
    assert one.obs_names[0] == "in0.h5ad:0-c0"
    np.testing.assert_array_equal(tl.probabilities(one), tl.probabilities(other))
    run = one.uns["cell2sen"]["annotate"]["run"]
    assert run["plan"] == atlas.status(done).plan
    assert int(run["shards"]) == 5


def test_beside_the_inputs(done, files, tmp_path) -> None:
    (tmp_path / "labelled").mkdir()
    written = atlas.collect(done, beside=tmp_path / "labelled", progress=False)
    assert [file.name for file in written] == ["in0.h5ad", "in1.h5ad"]
    adata = anndata.read_h5ad(written[0])
    assert adata.n_vars == 50
    assert {"depth", "cell2sen_cell_type"} <= set(adata.obs)
    assert adata.obs_names.tolist() == anndata.read_h5ad(files[0]).obs_names.tolist()


def test_names_that_are_taken_or_wrong(done, tmp_path, files) -> None:
    (tmp_path / "all.zarr").mkdir()
    with pytest.raises(ValueError, match="exists; choose another name"):
        atlas.collect(done, tmp_path / "all.zarr", progress=False)
    with pytest.raises(ValueError, match=r"must end in .zarr or .h5ad"):
        atlas.collect(done, tmp_path / "all.csv", progress=False)
    with pytest.raises(ValueError, match="is the input file"):
        atlas.collect(done, files[0], progress=False)
    with pytest.raises(ValueError, match="pass either target= "):
        atlas.collect(done, progress=False)


def test_many_rows_are_written_in_parts(planned, tmp_path, monkeypatch) -> None:
    from cell2sen.atlas import collecting

    monkeypatch.setattr(collecting, "_ROWS", 4)
    monkeypatch.setattr(collecting, "_CHUNK", 2)
    folder, _ = planned("embed")
    atlas.run(folder, progress=False)
    written = [atlas.collect(folder, tmp_path / f"all{suffix}", progress=False)[0] for suffix in (".h5ad", ".zarr")]
    vectors = [anndata.read_h5ad(written[0]).obsm["X_cell2sen"], anndata.read_zarr(written[1]).obsm["X_cell2sen"]]
    np.testing.assert_array_equal(*vectors)
    assert np.isnan(vectors[0]).all(axis=1).sum() == 1
