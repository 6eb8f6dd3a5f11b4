"""Sentences: some of the cells, their text, and the way to and from Hugging Face datasets."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from cell2sen.sentences import sentences as module
from cell2sen.sentences.rank_fit import RankFit, inverse_transform
from cell2sen.sentences.ranking import Recipe
from cell2sen.sentences.sentences import Sentences
from cell2sen.sentences.writing import from_anndata

N, GENES = 40, 30


@pytest.mark.parametrize(
    "rows",
    [
        3,
        -1,
        slice(2, 9, 3),
        slice(0),
        [],
        [5, 5, 0],
        np.array([], dtype=int),
        np.arange(N) % 3 == 0,
        np.zeros(N, dtype=bool),
    ],
)
def test_some_of_the_cells(adata, rows):
    sentences = from_anndata(adata, perturbation_column="drug", obs_columns=["kind"])
    subset = sentences[rows]
    index = np.atleast_1d(np.arange(N)[rows]).astype(int).tolist() if np.size(rows) else []
    if isinstance(rows, slice):
        index = list(range(N))[rows]
    assert len(subset) == len(subset.n_genes) == len(subset.texts()) == len(subset.organism) == len(index)
    assert subset.gene_names() == [sentences.gene_names()[row] for row in index]
    assert subset.texts().to_pylist() == [sentences.texts()[row].as_py() for row in index]
    assert subset.names.tolist() == subset.obs.index.tolist() == [f"cell {row}" for row in index]
    assert subset.perturbations == tuple(sentences.perturbations[row] for row in index)
    assert subset.fit == sentences.fit
    assert len(subset.to_dataset()) == len(index)


def test_sentences_are_iterated_cell_by_cell(adata):
    sentences = from_anndata(adata)
    assert [cell.gene_names()[0] for cell in sentences] == sentences.gene_names()


def test_texts_come_in_chunks(adata, monkeypatch):
    sentences = from_anndata(adata)
    expected = sentences.texts().to_pylist()
    monkeypatch.setattr(module, "_MAX_TEXT_ROWS", 7)
    assert sentences.texts().to_pylist() == expected
    assert sentences.texts().num_chunks == 6
    assert sentences.to_dataset()["cell_sentence"][:] == expected


@given(lengths=st.lists(st.integers(0, 4), max_size=12), rows=st.integers(1, 5), threads=st.sampled_from([1, 2]))
@settings(max_examples=60, deadline=None)
def test_texts_are_the_words_with_spaces_between(lengths, rows, threads):
    words = ["CD4", "é", "細胞", "A-1"]
    genes = [[(row + place) % 4 for place in range(length)] for row, length in enumerate(lengths)]
    sentences = Sentences(
        genes=pa.array([[], *genes], type=pa.list_(pa.int32()))[1:], vocabulary=pa.array(words, type=pa.string()),
        names=np.array(["c"] * len(genes), dtype=object), organism=("Homo sapiens",) * len(genes),
        perturbations=(None,) * len(genes), obs=pd.DataFrame(index=["c"] * len(genes)), recipe=Recipe(), fit=None,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MAX_TEXT_ROWS", rows)
        patch.setattr("cell2sen.sentences.threads.n_threads", lambda: threads)
        texts = sentences.texts()
    texts.validate(full=True)
    assert texts.to_pylist() == [" ".join(words[gene] for gene in row) for row in genes]


def test_expression_by_the_fit_of_the_dataset(adata):
    sentences = from_anndata(adata)
    fit = RankFit(slope=-0.9, intercept=1.0, r_squared=1.0)
    lists = [["GENE4", "GENE2"], [], sentences.symbols[:20]]
    own = sentences.expression(lists)
    expected = inverse_transform(lists, sentences.symbols, sentences.fit)
    np.testing.assert_array_equal(own.toarray(), expected.toarray())
    by_other_fit = inverse_transform(lists, sentences.symbols, fit)
    np.testing.assert_array_equal(sentences.expression(lists, fit).toarray(), by_other_fit.toarray())
    assert (own != by_other_fit).nnz
    single = from_anndata(adata[:1, :1])
    assert single.fit is None
    with pytest.raises(ValueError, match="no rank fit"):
        single.expression([["GENE0"]])


def test_dataset_round_trip(adata, tmp_path):
    import datasets

    adata.obs["organism"] = ["human", "mouse"] * (N // 2)
    sentences = from_anndata(adata, perturbation_column="drug", obs_columns=["kind", "score", "batch", "organism"])
    dataset = sentences.to_dataset()
    first = ["cell_sentence", "fit_parameters", "organism", "perturbations"]
    assert dataset.column_names == [*first, "cell_name", "kind", "score", "batch"]
    assert dataset[1]["organism"] == "Mus musculus"
    assert dataset[0]["perturbations"] is None
    assert dataset[0]["fit_parameters"]["slope"] == sentences.fit.slope
    assert dataset["batch"][:] == list(range(N))
    dataset.save_to_disk(tmp_path / "saved")
    for source in (dataset, datasets.load_from_disk(str(tmp_path / "saved"))):
        read = Sentences.from_dataset(source)
        assert read.gene_names() == sentences.gene_names()
        assert (read.fit, read.organism, read.perturbations) == (
            sentences.fit,
            sentences.organism,
            sentences.perturbations,
        )
        assert read.names.tolist() == sentences.names.tolist()
        assert read.obs["kind"].tolist() == sentences.obs["kind"].tolist()
        assert read.obs["score"].tolist() == sentences.obs["score"].tolist()
        assert read.to_dataset()[:] == dataset[:]
    half = Sentences.from_dataset(dataset.select([7, 2]))
    assert half.gene_names() == sentences[[7, 2]].gene_names()


def test_a_dataset_by_hand(caplog):
    from datasets import Dataset

    read = Sentences.from_dataset(
        Dataset.from_dict({"cell_sentence": [" B  A ", None, ""], "organism": ["mouse", None, ""]})
    )
    assert read.gene_names() == [["B", "A"], [], []]
    assert read.organism == ("Mus musculus", "Homo sapiens", "Homo sapiens")
    assert read.names.tolist() == ["0", "1", "2"]
    assert read.perturbations == (None,) * 3
    assert read.fit is None
    fits = [{"slope": -1.0, "intercept": float(i), "r_squared": 0.5} for i in range(2)]
    two_fits = Dataset.from_dict({"cell_sentence": ["A", "B"], "fit_parameters": fits})
    assert Sentences.from_dataset(two_fits).fit is None
    assert "2 different rank fits" in caplog.text
    with pytest.raises(KeyError, match=r"no column 'cell_sentence'; available: \['text'\]"):
        Sentences.from_dataset(Dataset.from_dict({"text": ["A"]}))
    with pytest.raises(ValueError, match="no rows"):
        Sentences.from_dataset(Dataset.from_dict({"cell_sentence": []}))


def test_sentences_can_be_pickled(adata):
    sentences = from_anndata(adata)
    loaded = pickle.loads(pickle.dumps(sentences))  # noqa: S301
    assert loaded.gene_names() == sentences.gene_names()
    assert loaded.names.tolist() == sentences.names.tolist()
    assert loaded.fit == sentences.fit


@pytest.mark.parametrize(
    "sentence",
    [
        "CD3D IL7R MALAT1",
        "CD3D IL7R MALAT1.",
        "CD3D, IL7R, MALAT1",
        "CD3D\nIL7R\tMALAT1 ",
        "['CD3D', 'IL7R', 'MALAT1']",
        b"CD3D IL7R MALAT1",
        ["CD3D", "IL7R", "MALAT1"],
        "cd3d il7r malat1",
        "CD3D IL7R CD3D MALAT1 IL7R",
    ],
)
@pytest.mark.parametrize("kind", [None, "numpy", "arrow", "pandas"])
def test_sentences_as_other_tools_write_them(sentence, kind):
    columns = {"cell_name": ["a", "b"], "cell_sentence": [sentence, sentence[:0]], "organism": ["human", "mouse"]}
    dataset = Dataset.from_dict(columns).with_format(kind)
    sentences = Sentences.from_dataset(dataset, Recipe(case="upper"))
    assert sentences.gene_names() == [["CD3D", "IL7R", "MALAT1"], []]
    assert sentences.organism == ("Homo sapiens", "Mus musculus")


def test_symbols_with_other_signs_stay_and_case_is_that_of_the_recipe():
    words = "HLA-A AC012345.1 C1orf112 l(2)37Cc MT:CO1 su(Hw)"
    assert Sentences.from_dataset(Dataset.from_dict({"cell_sentence": [words]})).gene_names() == [words.split()]


def test_what_is_no_dataset_is_explained():
    dataset = Dataset.from_dict({"cell_sentence": ["CD3D"]})
    with pytest.raises(TypeError, match=r"has the splits \['train'\]: pass one of them, as dataset\['train'\]"):
        Sentences.from_dataset(DatasetDict({"train": dataset}))
    with pytest.raises(TypeError, match=r"found DataFrame: datasets\.Dataset\.from_pandas"):
        Sentences.from_dataset(dataset.to_pandas())
