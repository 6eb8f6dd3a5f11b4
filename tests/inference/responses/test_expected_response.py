from __future__ import annotations

from collections import Counter
from typing import Any

import anndata
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from cells import GENES, cells, fake, log_normalised, needs_weights

from cell2sen import tl
from cell2sen.backend import Unsupported
from cell2sen.data import expression, obs, reader
from cell2sen.inference.responses.expected_response import expected_response, own_rank_values
from cell2sen.inference.responses.made_up_names import MADE_UP_NAMES, made_up_like, standing_out
from cell2sen.inference.session import start

NAMED = {"no_perturbation": "no perturbation"}


def predict(adata: Any = None, perturbation: Any = "IFN-beta", **options: Any) -> anndata.AnnData:
    merged: Any = {"model": fake(**NAMED), "progress": False, "readout": "expected", **options}
    return tl.perturb(cells() if adata is None else adata, perturbation, **merged)


def test_change_is_added_to_measured_expression() -> None:
    adata = cells()
    predicted = predict(adata)
    assert list(predicted.var_names) == GENES
    np.testing.assert_allclose(predicted.layers["control"].toarray(), log_normalised(adata), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        predicted.X.toarray(), predicted.layers["control"].toarray() + predicted.layers["delta"].toarray(), atol=1e-6
    )
    assert (predicted.X.toarray() >= 0).all()
    assert np.abs(predicted.layers["delta"].toarray()).max() > 0.1
    assert predicted.uns["cell2sen"]["perturb"]["readout"] == "expected"


def test_change_is_the_difference_of_two_expectations() -> None:
    """Slow twin: all expectations computed by hand; with several trained names, made-up ones are taken out."""
    adata = cells()
    change = differences(adata, ["IFN-beta"])[..., 0]
    predicted = predict(adata, model=fake(**NAMED))
    expected = np.clip(log_normalised(adata) + change, 0, np.log1p(1e4))
    np.testing.assert_allclose(predicted.X.toarray(), expected, atol=2e-3)

    several = fake(**NAMED, perturbations={"IFN-beta": 40, "IL-2": 10})
    nothing = differences(adata, MADE_UP_NAMES)
    cleared = []
    for row, made_up in zip(change, nothing, strict=True):
        coefficients, *_ = np.linalg.lstsq(made_up, row, rcond=None)
        cleared.append(row - made_up @ coefficients)
    expected = np.clip(log_normalised(adata) + cleared, 0, np.log1p(1e4))
    np.testing.assert_allclose(predict(adata, model=several).X.toarray(), expected, atol=2e-3)

    unknown = differences(adata, ["banana"])[..., 0]
    left = standing_out(
        unknown,
        differences(adata, made_up_like("banana", known=[*several.model.metadata["perturbations"], "no perturbation"])),
    )
    expected = np.clip(log_normalised(adata) + left, 0, np.log1p(1e4))
    np.testing.assert_allclose(predict(adata, "banana", model=several, force=True).X.toarray(), expected, atol=2e-3)


def differences(adata: anndata.AnnData, names: Any) -> np.ndarray:
    """Expectation with each name minus that without a perturbation, (cells, genes, names)."""
    model = fake(**NAMED)
    session = start(adata, "perturb", {"model": model, "progress": False})
    lists = session.sentences.gene_names(session.length)
    rank_values = [-np.sort(-cell)[: len(genes)] for cell, genes in zip(log_normalised(adata), lists, strict=True)]
    sides = []
    for name in ("no perturbation", *names):
        prompts = [
            session.task.prompt(
                genes=genes, organism="Homo sapiens", key=key, answer_genes=len(genes), perturbation=name
            )
            for genes, key in zip(lists, adata.obs_names, strict=True)
        ]
        sides.append(model.expect(prompts, GENES, rank_values))
    return np.stack([side - sides[0] for side in sides[1:]], axis=2)


@pytest.mark.parametrize("readout", ["expected", "sentence"])
def test_the_data_is_opened_resolved_and_cleaned_once(readout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()

    def count(module: Any, name: str) -> None:
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **options: calls.update([name]) or function(*args, **options))

    count(reader, "_reader_of_object")
    count(expression, "resolve_genes")
    count(expression, "scale_of")
    count(obs, "as_texts")
    adata = cells()
    adata.obs["drug"] = "IFN-beta"
    predict(adata, None, perturbation_column="drug", readout=readout)
    assert calls == {"_reader_of_object": 1, "resolve_genes": 1, "scale_of": 1, "as_texts": 1}
    calls.clear()
    predict(adata, readout=readout)
    assert calls == {"_reader_of_object": 1, "resolve_genes": 1, "scale_of": 1, "as_texts": 1}


def test_a_session_of_sentences_has_no_measured_expression() -> None:
    model = fake(**NAMED)
    with start(cells(), "perturb", {"model": model, "progress": False}) as session:
        sentences = session.sentences
    with pytest.raises(ValueError, match="not sentences"):
        expected_response(start(sentences, "perturb", {"model": model}), [{"perturbation": "x"}] * 6)


def test_no_perturbation_changes_nothing() -> None:
    assert predict(perturbation="no perturbation").layers["delta"].nnz == 0


def test_sentences_are_the_highest_genes_of_the_prediction() -> None:
    predicted = predict()
    for row, sentence in enumerate(predicted.obs["sentence"]):
        genes = sentence.split()
        values = predicted[row].X.toarray()[0]
        assert values[[GENES.index(gene) for gene in genes]].min() >= np.sort(values)[-len(genes)] - 1e-6
    assert (predicted.obs["validity"] == 1).all()


def test_cells_without_a_perturbation_are_skipped() -> None:
    adata = cells()
    whole = predict(adata, ["IFN-beta", None, "IFN-beta", "", "drug", "IFN-beta"], force=True)
    assert list(whole.obs_names) == ["c0", "c2", "c4", "c5"]
    alone = predict(adata[[4]].copy(), "drug", model=fake(**NAMED), force=True)
    # The rank fit of one cell differs from that of six.
    assert list(alone.obs["sentence"]) != []
    again = predict(adata[[5, 4, 2, 0]].copy(), ["IFN-beta", "drug", "IFN-beta", "IFN-beta"], force=True)
    assert again.shape == whole.shape


def test_automatic_readout() -> None:
    def readout(**options: Any) -> str:
        return str(predict(readout="auto", **options).uns["cell2sen"]["perturb"]["readout"])

    assert readout() == "expected"
    assert readout(temperature=1.0) == "sentence"
    assert readout(guided=False, max_new_tokens=5) == "sentence"
    assert readout(model=fake()) == "sentence"
    with pytest.raises(Unsupported, match="no_perturbation"):
        predict(model=fake())
    with pytest.raises(ValueError, match="no readout 'mean'"):
        predict(readout="mean")


def test_log_values_and_counts_give_the_same_prediction() -> None:
    adata = cells()
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    np.testing.assert_allclose(predict(logged).X.toarray(), predict(adata).X.toarray(), atol=1e-3)


def test_at_least_one_gene() -> None:
    for readout in ("expected", "sentence"):
        with pytest.raises(ValueError, match="n_genes must be at least 1, found 0"):
            predict(n_genes=0, readout=readout)


@pytest.mark.parametrize("readout", ["expected", "sentence"])
def test_a_response_does_not_depend_on_other_cells(readout: str) -> None:
    others = cells()
    others.X = others.X * 10
    others.obs_names = [f"other-{name}" for name in others.obs_names]
    alone = predict(cells()[:1].copy(), readout=readout)
    beside = predict(anndata.concat([cells()[:1], others]), ["IFN-beta"] + [None] * others.n_obs, readout=readout)
    for layer in ("control", "delta"):
        np.testing.assert_array_equal(alone.layers[layer].toarray(), beside.layers[layer].toarray())


def test_own_rank_values() -> None:
    expression = sp.csr_matrix(np.array([[0, 3, 1, 2], [0, 0, 5, 0], [0, 0, 0, 0]], dtype=np.float32))
    values = own_rank_values(expression, np.array([2, 3, 2]))
    assert [list(row) for row in values] == [[3, 2], [5, 5, 5], [0, 0]]


@needs_weights
def test_made_up_names_change_little_in_the_embedded_model() -> None:
    """Less than a tenth of IFN-beta's root mean square."""
    adata = sc.datasets.pbmc68k_reduced()[:6].raw.to_adata()
    known = tl.perturb(adata, "IFN-beta", progress=False).layers["delta"].toarray().mean(axis=0)
    for name in ("banana", "a name of many words that means nothing"):
        change = tl.perturb(adata, name, progress=False, force=True, n_genes=80).layers["delta"].toarray().mean(axis=0)
        assert np.sqrt((change**2).mean()) < 0.1 * np.sqrt((known**2).mean()), name
    with pytest.raises(ValueError, match=r"'STAT1'.*did you mean 'STAT1 knock-out' for 'STAT1'"):
        tl.perturb(adata, "STAT1", progress=False)
