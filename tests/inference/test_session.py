from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any

import numpy as np
import pytest
from cells import GENES, cells, fake
from sessions import begin, sentences_of

from cell2sen.backends.fake import FakeBackend
from cell2sen.inference import session, templates
from cell2sen.inference.session import DEFAULT_GENES, drop_unknown_genes, load_model, start
from cell2sen.model import KNOWN, Model
from cell2sen.sentences.rank_fit import RankFit


def test_loaded_backend_is_used_again_and_speed_is_not_recorded() -> None:
    backend = fake()
    begun = begin(model=backend, batch_size=3, device="cpu")
    assert begun.backend is backend
    assert "batch_size" not in json.dumps(begun.provenance(), default=str)
    with pytest.raises(ValueError, match="loaded already: quantize"):
        begin(model=backend, quantize="4bit")


def test_backend_by_name() -> None:
    loaded = load_model({"model": Model(name="any", path="any/where"), "backend": "fake"})
    assert isinstance(loaded, FakeBackend)
    with pytest.raises(ValueError, match=r"no backend 'vlm'; available: \['fake', 'openai', 'transformers', 'vllm'\]"):
        load_model({"model": Model(name="any", path="any/where"), "backend": "vlm"})


def test_errors_in_the_data_come_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(session, "load_model", refuse)
    with pytest.raises(KeyError, match="no 'x'"):
        start(cells(), "embed", {"layer": "x"})
    with pytest.raises(KeyError, match="no column 'x'"):
        start(cells(), "perturb", {}, perturbation_column="x")
    with pytest.raises(ValueError, match="is empty"):
        start(cells()[:0].copy(), "embed", {})


def test_a_given_scale_reaches_the_data_and_the_record() -> None:
    adata = cells()
    adata.X = np.log2(1 + adata.X.toarray() / adata.X.toarray().sum(axis=1, keepdims=True) * 1e4)
    with start(adata, "embed", {"model": fake(), "scale": "log2", "progress": False}) as begun:
        assert begun.provenance()["scale"] == "log base 2 of 1 + x, each cell over its own sum"
        assert begun.data is not None
        expected = np.log1p(np.expm1(np.asarray(adata.X) * np.log(2)))
        np.testing.assert_allclose(begun.data.ln_cp10k().toarray(), expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"scale must be one of auto, counts.*found 'x'"):
        start(cells(), "embed", {"scale": "x"})  # type: ignore[typeddict-item]


def test_provenance_has_settings_that_change_results() -> None:
    provenance = begin(max_genes=7, ties="alphabetical", organism="mouse").provenance(seed=3)
    assert set(provenance) == {
        "versions", "model", "recipe", "task", "fit", "matrix", "scale", "organism", "genes", "seed"
    }  # fmt: skip
    assert provenance["recipe"] == {"max_genes": 7, "ties": "alphabetical", "case": "keep", "seed": 0}
    assert (provenance["organism"], provenance["scale"], provenance["matrix"]) == ("Mus musculus", "counts", "X")
    assert set(provenance["versions"]) == {"cell2sen", "torch", "transformers", "anndata"}
    other = begin(templates={"embed": [{"prompt": "{genes} of {organism}"}]}).provenance()
    assert other["task"]["template_hash"] != provenance["task"]["template_hash"]


@pytest.mark.parametrize(
    ("lengths", "max_genes", "task", "expected"),
    [
        ({}, None, "embed", None),
        ({}, None, "perturb", DEFAULT_GENES),
        ({}, 30, "perturb", 30),
        ({"annotate": 20}, None, "embed", 20),
        ({"annotate": 20}, 10, "annotate", 10),
        ({"annotate": 20}, 30, "annotate", 20),
        ({"annotate": 20, "perturb": 15}, None, "perturb", 15),
    ],
)
def test_length_of_sentences(lengths: dict[str, int], max_genes: int | None, task: str, expected: int | None) -> None:
    options = {} if max_genes is None else {"max_genes": max_genes}
    assert begin(task, model=fake(lengths=lengths), **options).length == expected


def test_published_checkpoint_with_other_templates_warns_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(templates, "_warned", set())
    monkeypatch.setattr(templates, "package_is_installed", lambda: False)
    backend = FakeBackend(KNOWN["pythia-410m"])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            begin("annotate", model=backend)
    assert caplog.text.count("was trained with other templates") == 1


def test_words_that_the_model_cannot_write_are_left_out() -> None:
    backend = fake(genes=GENES)
    sentences = sentences_of("CD4 xx LYZ", "", "yy", "B2M CD4")
    left = drop_unknown_genes(sentences, backend)
    assert left.gene_names() == [["CD4", "LYZ"], [], [], ["B2M", "CD4"]]
    assert set(left.symbols) == {"CD4", "LYZ", "B2M"}
    known = sentences_of("CD4 LYZ")
    assert drop_unknown_genes(known, backend) is known
    with pytest.raises(ValueError, match="can write none of the genes"):
        drop_unknown_genes(sentences_of("xx yy"), backend)


def test_expression_against_the_formula_gene_by_gene() -> None:
    session = begin("perturb", data=sentences_of("a b", "", "c", "d"), model=fake(genes=None, fit=None))
    fit = RankFit(slope=-0.7, intercept=2.0, r_squared=0.9)
    session = dataclasses.replace(session, sentences=dataclasses.replace(session.sentences, fit=fit))
    lists = [["b", "a"], [], ["c"]]
    values = session.expression(lists).toarray()
    expected = np.zeros((3, 4))
    for row, genes in enumerate(lists):
        for position, gene in enumerate(genes):
            log10 = max(0.0, 2.0 - 0.7 * np.log10(1 + position))
            expected[row, session.sentences.symbols.index(gene)] = np.log(10**log10)  # log10(1 + CP10k) → ln(1 + CP10k)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert session.expression([]).shape == (0, 4)


def test_expression_needs_a_rank_fit() -> None:
    session = begin("perturb", data=sentences_of("CD4 LYZ"), model=fake(fit=None))
    with pytest.raises(ValueError, match="no rank fit"):
        session.expression([["CD4"]])
