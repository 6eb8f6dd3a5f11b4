"""Files of cell sentences: the content of the dataset, in bounded memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
from cells import cells

from cell2sen.sentences import sentence_files
from cell2sen.sentences.ranking import Recipe
from cell2sen.sentences.sentence_files import write_sentences
from cell2sen.sentences.writing import from_anndata


def many(n: int = 2500) -> anndata.AnnData:
    """Cells with perturbations, kept columns of several kinds, and some without genes."""
    adata = cells(n)
    adata.obs["perturbation"] = [None if row % 3 else f"drug {row % 5}" for row in range(n)]
    adata.obs["score"] = np.where(np.arange(n) % 4, np.arange(n) / 7, np.nan)
    adata.obs["text"] = [f'{row}, "quoted"' for row in range(n)]
    empty = (np.arange(n) % 50 == 7).astype(np.float32)
    adata.X = sp.csr_matrix(sp.diags(1 - empty) @ adata.X)
    return adata


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".txt"])
@pytest.mark.parametrize("rows", [1000, 2000])
def test_the_bytes_are_those_of_the_dataset(
    suffix: str, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentence_files, "_ROWS", rows)
    adata, recipe = many(), Recipe(max_genes=9)
    kept = ["donor", "score", "text"]
    out, expected = tmp_path / f"out{suffix}", tmp_path / f"expected{suffix}"
    n_genes = write_sentences(adata, out, recipe, perturbation_column="perturbation", obs_columns=kept)
    sentences = from_anndata(adata, recipe, perturbation_column="perturbation", obs_columns=kept)
    assert n_genes.tolist() == sentences.n_genes.tolist()
    assert 0 in n_genes
    dataset = sentences.to_dataset()
    if suffix == ".txt":
        expected.write_text("".join(f"{text}\n" for text in sentences.texts().to_pylist()), encoding="utf-8")
    else:
        {".parquet": dataset.to_parquet, ".jsonl": dataset.to_json, ".csv": dataset.to_csv}[suffix](expected)
    if suffix == ".parquet":
        ours, theirs = pq.ParquetFile(out), pq.ParquetFile(expected)
        assert ours.read().equals(theirs.read())
        assert ours.schema_arrow.equals(theirs.schema_arrow, check_metadata=True)
    # pyarrow 21 encodes the pages of the two writers in different ways.
    if suffix != ".parquet" or int(pa.__version__.partition(".")[0]) >= 26:
        assert out.read_bytes() == expected.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([out.name, expected.name])


def test_row_groups_are_those_of_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "MAX_ROW_GROUP_SIZE", "50KB")
    adata, recipe = many(), Recipe()
    write_sentences(adata, tmp_path / "out.parquet", recipe)
    from_anndata(adata, recipe).to_dataset().to_parquet(tmp_path / "expected.parquet")
    found, expected = (pq.ParquetFile(tmp_path / f"{name}.parquet") for name in ("out", "expected"))
    assert expected.num_row_groups > 3
    rows = [[file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)] for file in (found, expected)]
    assert rows[0] == rows[1]
    pd.testing.assert_frame_equal(found.read().to_pandas(), expected.read().to_pandas())


def test_memory_does_not_grow_with_the_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_files, "_ROWS", 100)
    monkeypatch.setattr("cell2sen.data.reader.BLOCK_VALUES", 2**15)
    values = sp.random(3000, 400, 0.5, "csr", np.float32, random_state=0)
    values.data = np.ceil(values.data * 9)
    genes = pd.DataFrame(index=[f"LONGNAME{gene}" for gene in range(400)])
    adata = anndata.AnnData(values, obs=pd.DataFrame(index=[f"c{row}" for row in range(3000)]), var=genes)
    adata.write_h5ad(tmp_path / "x.h5ad")
    del adata
    write_sentences(tmp_path / "x.h5ad", tmp_path / "first.txt", Recipe())  # imports and caches
    tracemalloc.start()
    write_sentences(tmp_path / "x.h5ad", tmp_path / "out.txt", Recipe())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = (tmp_path / "out.txt").stat().st_size
    assert size > 6_000_000
    assert peak < size / 2, f"{peak / 1e6:.1f} of {size / 1e6:.1f} MB"
