"""Rows of stored files: what is read in part equals the same rows of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cells import cells

from cell2sen.data.files.opening import open_anndata
from cell2sen.data.files.rows import open_rows


@pytest.fixture(params=[".h5ad", ".zarr"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    adata = cells(9)
    adata.obs["number"] = np.arange(9) / 2
    adata.obs["flag"] = pd.array([True, None] * 4 + [False], dtype="boolean")
    adata.obs["whole"] = pd.array([1, None] * 4 + [7], dtype="Int32")
    adata.obs["text"] = [f"text {n}" for n in range(9)]
    adata.obs["kind"] = pd.Categorical(["b", None, "a"] * 3, categories=["b", "a"], ordered=True)
    adata.layers["double"] = adata.X * 2
    adata.raw = adata.copy()
    path = tmp_path / f"cells{request.param}"
    (adata.write_zarr if request.param == ".zarr" else adata.write_h5ad)(path)
    return path


@pytest.mark.parametrize("rows", [(0, 9), (2, 7), (8, 9)])
def test_rows_equal_those_of_the_whole(file: Path, rows: tuple[int, int]) -> None:
    with open_rows(file) as stored, open_anndata(file) as whole:
        assert stored.n_obs == 9
        part = stored.read(*rows, columns=list(whole.obs.columns))
        expected = whole[slice(*rows)].to_memory()
    assert part.obs_names.tolist() == expected.obs_names.tolist()
    for name in expected.obs:
        assert part.obs[name].astype(str).tolist() == expected.obs[name].astype(str).tolist()
    assert part.obs["kind"].cat.categories.tolist() == ["b", "a"]
    np.testing.assert_array_equal(part.X.toarray(), expected.X.toarray())
    assert part.uns["organism"] == "Homo sapiens"


@pytest.mark.parametrize(("options", "factor"), [({"layer": "double"}, 2), ({"use_raw": True}, 1)])
def test_other_matrices(file: Path, options: dict[str, object], factor: int) -> None:
    with open_rows(file, **options) as stored:  # type: ignore[arg-type]
        np.testing.assert_array_equal(stored.read(3, 5).X.toarray(), factor * cells(9).X[3:5].toarray())


def test_what_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(KeyError, match="no layers/counts; available: X, layers"), open_rows(file, layer="counts"):
        pass
    with open_rows(file) as stored, pytest.raises(KeyError, match="has no column 'donors'; available"):
        stored.table(["donors"])


def test_other_formats_are_read_whole(tmp_path: Path) -> None:
    table = pd.DataFrame(cells(4).X.toarray(), index=list("abcd"), columns=cells(4).var_names)
    table.to_csv(tmp_path / "cells.csv")
    with open_rows(tmp_path / "cells.csv") as stored:
        assert stored.read(1, 3).obs_names.tolist() == ["b", "c"]


def test_only_the_columns_that_are_wanted_are_read(tmp_path: Path) -> None:
    """A column that cannot be read does not matter where it is not wanted."""
    import h5py

    cells(4).write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "r+") as root:
        del root["obs/donor"]
        root["obs/donor"] = h5py.Empty("f4")
    with open_rows(tmp_path / "cells.h5ad") as stored:
        assert stored.read(0, 2).n_obs == 2


def test_columns_that_may_hold_text_are_told_without_their_values(file: Path) -> None:
    with open_rows(file) as stored:
        assert stored.texts == ["donor", "text", "kind"]


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_names_that_may_be_missing(suffix: str, tmp_path: Path) -> None:
    """As anndata 0.13 writes names of cells, and columns of text."""
    import anndata
    from anndata.io import write_elem

    path, adata = tmp_path / f"cells{suffix}", cells(6)
    (adata.write_zarr if suffix == ".zarr" else adata.write_h5ad)(path)
    text = pd.array(["a", None, "b", None, "c", "d"], dtype="string")
    with anndata.settings.override(allow_write_nullable_strings=True):
        root = _writable(path)
        for key, values in (("_index", pd.array(adata.obs_names, dtype="string")), ("donor", text)):
            del root["obs"][key]
            write_elem(root["obs"], key, values)
        if suffix == ".h5ad":
            root.close()
    with open_rows(path) as stored, open_anndata(path) as whole:
        assert stored.n_obs == 6
        part, expected = stored.read(1, 5, columns=["donor"]), whole[1:5].to_memory()
    assert part.obs_names.tolist() == expected.obs_names.tolist() == list(adata.obs_names[1:5])
    assert part.obs["donor"].isna().tolist() == expected.obs["donor"].isna().tolist() == [True, False, True, False]
    assert part.obs["donor"].dropna().tolist() == ["b", "c"]


def _writable(path: Path) -> Any:
    if path.suffix == ".h5ad":
        import h5py

        return h5py.File(path, "r+")
    import zarr

    (path / ".zmetadata").unlink()  # a copy of what is changed
    return zarr.open_group(str(path), mode="r+", use_consolidated=False)
