from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import GENES, LABELS, cells, fake
from datasets import Dataset

from cell2sen.backend import Sampling
from cell2sen.backends.fake import FakeBackend
from cell2sen.inference import pipeline, session
from cell2sen.inference import templates as wording
from cell2sen.inference.session import Options, start
from cell2sen.model import KNOWN, Model
from cell2sen.sentences.ranking import RankFit
from cell2sen.sentences.sentences import Sentences


def begin(task: str = "embed", adata: Any = None, **options: Any) -> session.Session:
    merged: Any = {"model": fake(), "progress": False, **options}
    return start(cells() if adata is None else adata, task, merged)


# -- session


def test_options_are_documented_where_they_are_defined() -> None:
    assert set(Options.__annotations__) >= {"model", "layer", "use_raw", "max_genes", "templates", "backend", "device"}


def test_a_loaded_backend_is_used_again_and_speed_is_not_recorded() -> None:
    backend = fake()
    one = begin(model=backend, batch_size=3, device="cpu")
    assert one.backend is backend
    assert "batch_size" not in json.dumps(one.provenance(), default=str)
    with pytest.raises(ValueError, match="loaded already: quantize"):
        begin(model=backend, quantize="4bit")


def test_backend_by_name() -> None:
    loaded = session.load_model({"model": Model(name="any", path="any/where"), "backend": "fake"})
    assert isinstance(loaded, FakeBackend)
    with pytest.raises(ValueError, match=r"no backend 'vllm'; available: \['fake', 'transformers'\]"):
        session.load_model({"model": Model(name="any", path="any/where"), "backend": "vllm"})


def test_data_is_looked_at_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(session, "load_model", refuse)
    with pytest.raises(KeyError, match="no 'x'"):
        start(cells(), "embed", {"layer": "x"})
    with pytest.raises(KeyError, match="no column 'x'"):
        start(cells(), "perturb", {}, perturbation_column="x")
    with pytest.raises(ValueError, match="is empty"):
        start(cells()[:0].copy(), "embed", {})


def test_provenance_holds_what_changes_the_numbers_as_plain_values() -> None:
    made = begin(max_genes=7, ties="alphabetical", organism="mouse").provenance(seed=3)
    assert set(made) == {
        "versions", "model", "recipe", "task", "fit", "matrix", "scale", "organism", "genes", "seed"
    }  # fmt: skip
    assert made["recipe"] == {"max_genes": 7, "ties": "alphabetical", "case": "keep", "seed": 0}
    assert (made["organism"], made["scale"], made["matrix"]) == ("Mus musculus", "counts", "X")
    assert set(made["versions"]) == {"cell2sen", "torch", "transformers", "anndata"}
    other = begin(templates={"embed": [{"prompt": "{genes} of {organism}"}]}).provenance()
    assert other["task"]["template_hash"] != made["task"]["template_hash"]


@pytest.mark.parametrize(
    ("lengths", "max_genes", "task", "expected"),
    [
        ({}, None, "embed", None),
        ({}, None, "perturb", session.DEFAULT_GENES),
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


def test_published_checkpoint_in_other_words_warns_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wording, "_warned", set())
    monkeypatch.setattr(wording, "package_is_installed", lambda: False)
    backend = FakeBackend(KNOWN["pythia-410m"])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            begin("annotate", model=backend)
    assert caplog.text.count("was trained with other words") == 1


# -- sentences that are given


def given(*texts: str) -> Sentences:
    return Sentences.from_dataset(Dataset.from_dict({"cell_sentence": list(texts)}))


def test_words_that_no_model_knows_are_left_out() -> None:
    backend = fake(genes=GENES)
    sentences = given("CD4 xx LYZ", "", "yy", "B2M CD4")
    left = session.without_unknown(sentences, backend)
    assert left.gene_names() == [["CD4", "LYZ"], [], [], ["B2M", "CD4"]]
    assert set(left.symbols) == {"CD4", "LYZ", "B2M"}
    known = given("CD4 LYZ")
    assert session.without_unknown(known, backend) is known
    with pytest.raises(ValueError, match="knows none of the genes"):
        session.without_unknown(given("xx yy"), backend)


# -- embed


def test_vectors_stay_with_their_cells_where_some_have_no_genes() -> None:
    backend = fake()
    found = pipeline.embed(begin(adata=given("CD4 LYZ", "", "B2M"), model=backend), attention_for=[1, 2])
    alone = pipeline.embed(begin(adata=given("B2M"), model=backend))
    assert np.isnan(found.vectors[1]).all()
    np.testing.assert_array_equal(found.vectors[2], alone.vectors[0])
    assert found.genes_used.tolist() == [2, 0, 1]
    assert found.attention is not None
    assert [one is not None for one in found.attention] == [False, False, True]


# -- predict


GREEDY = Sampling(max_new_tokens=20)


def test_answers_are_as_long_as_their_prompts_and_no_longer_than_asked() -> None:
    one = begin("perturb", adata=given("CD4 LYZ B2M", "CD4", "LYZ B2M ACTB FTL"))
    found = pipeline.predict(one, [{"perturbation": "x"}] * 3, sampling=GREEDY, n_genes=3)
    assert [len(answer.genes) for answer in found.answers] == [3, 1, 3]
    assert found.given == [["CD4", "LYZ", "B2M"], ["CD4"], ["LYZ", "B2M", "ACTB"]]
    with pytest.raises(ValueError, match="n_genes must be at least 1"):
        pipeline.predict(one, [{"perturbation": "x"}] * 3, sampling=GREEDY, n_genes=0)


def test_rows_without_slots_or_genes_are_skipped() -> None:
    one = begin("perturb", adata=given("CD4 LYZ", "", "B2M", "FTL"))
    slots = [{"perturbation": "x"}, {"perturbation": "x"}, None, {"perturbation": "y"}]
    found = pipeline.predict(one, slots, sampling=GREEDY)
    assert found.rows.tolist() == [0, 3]
    with pytest.raises(ValueError, match="none of the cells to predict"):
        pipeline.predict(one, [None, {"perturbation": "x"}, None, None], sampling=GREEDY)


def test_vocabulary_bounds_guided_answers() -> None:
    one = begin("perturb", adata=given("CD4 LYZ", "B2M"))
    slots = [{"perturbation": "x"}] * 2
    wide = pipeline.predict(one, slots, sampling=GREEDY, vocabulary=GENES)
    assert {gene for answer in wide.answers for gene in answer.genes} <= set(GENES)
    own = pipeline.predict(one, slots, sampling=GREEDY)
    assert {gene for answer in own.answers for gene in answer.genes} <= {"CD4", "LYZ", "B2M"}
    with pytest.raises(ValueError, match="1 to 1 genes"):
        pipeline.predict(one, slots, sampling=GREEDY, vocabulary=["CD4"])


def test_genes_beyond_the_sentences_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        one = begin("perturb", max_genes=4)
        pipeline.predict(one, [{"perturbation": "x"}] * 6, sampling=GREEDY, n_genes=9)
    assert "4 genes at most, so n_genes=9 asks for no more" in caplog.text


# -- expression


def test_expression_against_the_formula_gene_by_gene() -> None:
    fit = RankFit(slope=-0.7, intercept=2.0, r_squared=0.9)
    lists = [["b", "a"], [], ["c"]]
    found = pipeline.expression(lists, ["a", "b", "c", "d"], fit).toarray()
    expected = np.zeros((3, 4))
    for row, genes in enumerate(lists):
        for position, gene in enumerate(genes):
            log10 = max(0.0, 2.0 - 0.7 * np.log10(1 + position))
            expected[row, "abcd".index(gene)] = np.log(10**log10)  # log10(1 + CP10k) → ln(1 + CP10k)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# -- choose


def test_probabilities_do_not_depend_on_the_order_of_labels() -> None:
    one = begin("annotate")
    forward, backward = pipeline.choose(one, LABELS), pipeline.choose(one, LABELS[::-1])
    np.testing.assert_allclose(forward.probabilities, backward.probabilities[:, ::-1])
    assert forward.pick()[0] == backward.pick()[0]


def test_softmax_against_the_definition() -> None:
    scores = np.array([[-1000.0, -1001.0], [-3.0, -1.0]])
    expected = [[1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(0.5))], [1 / (1 + np.e), 1 / (1 + np.exp(-1))]]
    np.testing.assert_allclose(pipeline.softmax(scores, 2.0), expected)
    assert pipeline.softmax(np.zeros((0, 3))).shape == (0, 3)


def test_pick_abstains() -> None:
    probabilities = np.array([[0.6, 0.4], [0.45, 0.55], [np.nan, np.nan]])
    choices = pipeline.Choices(labels=("a", "b"), probabilities=probabilities, temperature=1.0, calibrated=False)
    assert choices.pick()[0] == ["a", "b", "unknown"]
    picked, scores = choices.pick(0.56, "?")
    assert picked == ["a", "?", "?"]
    assert scores.tolist() == [0.6, 0.55, 0.0]


# -- perturbations and names


def test_one_per_cell() -> None:
    assert pipeline.one_per_cell("x", 2) == ("x", "x")
    assert pipeline.one_per_cell(["x", None, float("nan"), " "], 4) == ("x", None, None, None)  # type: ignore[list-item]
    for wrong in ("", [None, None]):
        with pytest.raises(ValueError, match="no cell has a perturbation"):
            pipeline.one_per_cell(wrong, 2)


@pytest.mark.parametrize("name", ["c1", "a/b", ".", "..", "a%2Fb", "ä", "plate 1:A|B+", "x.y"])
def test_attention_keys_are_ascii_distinct_and_allowed(name: str, tmp_path: Path) -> None:
    import h5py

    key = pipeline.attention_key(name)
    assert key.isascii()
    with h5py.File(tmp_path / "x.h5", "w") as opened:
        opened.create_group(key)
        assert list(opened) == [key]
    others = {"c1", "a/b", ".", "..", "a%2Fb", "ä", "plate 1:A|B+", "x.y"} - {name}
    assert key not in map(pipeline.attention_key, others)
    assert pipeline.attention_key("AAACCC-1") == "AAACCC-1"


def test_sentences_without_cells_have_expression() -> None:
    assert pipeline.expression([], ["a"], RankFit(slope=-1, intercept=1, r_squared=1)).shape == (0, 1)
