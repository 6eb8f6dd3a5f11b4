"""Records and sentences of results."""

from __future__ import annotations

import pandas as pd
import pytest
from cells import cells

from cell2sen.answer import parse_sentence
from cell2sen.tools.results import UNS, add_sentences, check_input, copied, record


def test_records_are_added() -> None:
    adata = cells(3)
    record(adata, "embed", {"a": 1})
    other = copied(adata)
    record(other, "annotate", {"b": 2})
    assert other.uns[UNS] == {"embed": {"a": 1}, "annotate": {"b": 2}}
    assert adata.uns[UNS] == {"embed": {"a": 1}}


def test_sentences() -> None:
    obs = pd.DataFrame(index=["a"])
    add_sentences(obs, [parse_sentence("CD4 LYZ CD4 ???", ["CD4", "LYZ"])])
    assert obs.loc["a"].to_dict() == {
        "sentence": "CD4 LYZ",
        "validity": 0.75,
        "uniqueness": pytest.approx(2 / 3),
        "n_unknown": 1,
        "n_repeated": 1,
    }


def test_other_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="expected an AnnData object, found str"):
        check_input("cells.h5ad", copy=False)
