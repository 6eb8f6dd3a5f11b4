from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cells import fake
from sessions import begin, sentences_of

from cell2sen.inference.embed import attention_key, embed_cells


def test_rows_of_cells_without_genes_are_missing_values() -> None:
    backend = fake()
    embeddings = embed_cells(begin(data=sentences_of("CD4 LYZ", "", "B2M"), model=backend), attention_for=[1, 2])
    alone = embed_cells(begin(data=sentences_of("B2M"), model=backend))
    assert np.isnan(embeddings.vectors[1]).all()
    np.testing.assert_array_equal(embeddings.vectors[2], alone.vectors[0])
    assert embeddings.genes_used.tolist() == [2, 0, 1]
    assert embeddings.attention is not None
    assert [attention is not None for attention in embeddings.attention] == [False, False, True]


@pytest.mark.parametrize("name", ["c1", "a/b", ".", "..", "a%2Fb", "ä", "plate 1:A|B+", "x.y"])
def test_attention_keys_are_ascii_distinct_and_allowed(name: str, tmp_path: Path) -> None:
    import h5py

    key = attention_key(name)
    assert key.isascii()
    with h5py.File(tmp_path / "x.h5", "w") as opened:
        opened.create_group(key)
        assert list(opened) == [key]
    others = {"c1", "a/b", ".", "..", "a%2Fb", "ä", "plate 1:A|B+", "x.y"} - {name}
    assert key not in map(attention_key, others)
    assert attention_key("AAACCC-1") == "AAACCC-1"
