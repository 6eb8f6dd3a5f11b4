"""Annotations of files: bytes, and names in a column."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cell2sen.data.files.frames import text_of, with_names, with_text
from cell2sen.data.reader import open_reader


def test_bytes_become_text_wherever_they_are() -> None:
    frame = pd.DataFrame(
        {
            "objects": [b"IFN-\xce\xb2", None, "text"],
            "categories": pd.Categorical([b"a", b"b", None]),
            "numbers": [1, 2, 3],
        },
        index=[b"c1", b"c2", "c3"],
    )
    found = with_text(frame)
    assert [None if pd.isna(value) else value for value in found["objects"]] == ["IFN-β", None, "text"]  # pandas 3: NaN
    assert found["categories"].astype(object).where(found["categories"].notna(), None).tolist() == ["a", "b", None]
    assert found["categories"].cat.categories.tolist() == ["a", "b"]
    assert found["numbers"].tolist() == [1, 2, 3]
    assert found.index.tolist() == ["c1", "c2", "c3"]
    assert frame["objects"].tolist()[0] == b"IFN-\xce\xb2"  # the input stays as it is


def test_two_spellings_of_one_category_become_one() -> None:
    found = with_text(pd.DataFrame({"kind": pd.Categorical([b"a", "a", b"b"])}))
    assert found["kind"].tolist() == ["a", "a", "b"]


def test_a_frame_without_bytes_is_returned_itself() -> None:
    frame = pd.DataFrame({"kind": ["a"]})
    assert with_text(frame) is frame
    assert with_names(frame) is frame


def test_bytes_that_are_no_utf8_are_latin1() -> None:
    assert text_of("Müller".encode("latin-1")) == "Müller"


@pytest.mark.parametrize(
    ("index", "expected"),
    [(["0", "1"], ["CD3D", "LYZ"]), ([7, 9], ["CD3D", "LYZ"]), (["ENSG1", "ENSG2"], ["ENSG1", "ENSG2"])],
)
def test_names_in_a_column_replace_row_numbers_only(index: list[object], expected: list[str]) -> None:
    found = with_names(pd.DataFrame({"_index": ["CD3D", "LYZ"], "n": [1, 2]}, index=index))
    assert found.index.tolist() == expected
    assert found.columns.tolist() == ["n"]


def test_missing_names_replace_nothing() -> None:
    found = with_names(pd.DataFrame({"_index": ["CD3D", None]}, index=["0", "1"]))
    assert found.index.tolist() == ["0", "1"]


def test_raw_and_X_of_objects_have_the_names_that_seuratdisk_left_in_a_column() -> None:
    values = sp.csr_matrix(np.eye(2, 3, dtype=np.float32))
    var = pd.DataFrame({"_index": ["CD3D", "LYZ", "ACTB"]}, index=["0", "1", "2"])
    adata = anndata.AnnData(values, obs=pd.DataFrame(index=["c0", "c1"]), var=var)
    adata.raw = adata.copy()
    for use_raw in (False, True):
        with open_reader(adata, use_raw=use_raw) as reader:
            assert reader.var.index.tolist() == ["CD3D", "LYZ", "ACTB"]
    assert adata.var.index.tolist() == ["0", "1", "2"]
