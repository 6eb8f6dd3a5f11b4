from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import tiny
from cells import GENES, LABELS, cells, fake, needs_weights

import cell2sen as c2s

QUIET: dict[str, Any] = {"progress": False}


def written_and_read(adata: anndata.AnnData, folder: Path) -> anndata.AnnData:
    adata.write_h5ad(folder / "round.h5ad")
    return anndata.read_h5ad(folder / "round.h5ad")


def assert_same(one: Any, other: Any) -> None:
    """Equal uns after a round trip."""
    if isinstance(one, dict):
        assert set(one) == set(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, np.ndarray | list):
        assert np.asarray(one).tolist() == np.asarray(other).tolist()
    else:
        assert one == other


# -- the snippet of the documentation


def test_three_verbs_as_documented() -> None:
    adata, model = cells(), fake()
    assert c2s.tl.embed(adata, model=model, **QUIET) is None
    assert adata.obsm["X_cell2sen"].shape == (6, 16)
    assert adata.obsm["X_cell2sen"].dtype == np.float32
    assert c2s.tl.annotate(adata, labels=LABELS, model=model, **QUIET) is None
    assert set(adata.obs["cell2sen_cell_type"]) <= set(LABELS)
    predicted = c2s.tl.perturb(adata, perturbation="IFN-beta", model=model, **QUIET)
    assert predicted.shape == (6, len(GENES))
    assert {"control", "delta"} == set(predicted.layers)
    drawn = c2s.tl.generate(["B cell", "NK cell"], n=2, genes=GENES, model=model, **QUIET)
    assert list(drawn.obs["cell_type"]) == ["B cell"] * 2 + ["NK cell"] * 2


@needs_weights
def test_embedded_model_is_the_default() -> None:
    adata = cells()
    c2s.tl.embed(adata)
    assert np.isfinite(adata.obsm["X_cell2sen"]).all()
    c2s.tl.annotate(adata, labels=["B cell", "NK cell"])
    np.testing.assert_allclose(adata.obsm["cell2sen_cell_type_probabilities"].sum(axis=1), 1)
    predicted = c2s.tl.perturb(adata, perturbation="IFN-beta")
    assert (predicted.obs["validity"] == 1).all()
    assert (c2s.tl.generate("B cell", n=1, n_genes=20).obs["validity"] == 1).all()
    for record in (adata.uns["cell2sen"]["embed"], predicted.uns["cell2sen"]["perturb"]):
        assert record["model"]["name"] == "nano"
        assert record["model"]["dtype"] == "float32"


# -- invariance (faults 2, 6 and 7)


def reordered(adata: anndata.AnnData) -> tuple[anndata.AnnData, list[int]]:
    rows = [4, 1, 5]
    return adata[rows, list(adata.var_names[::-1])].copy(), rows


def test_embedding_depends_on_the_cell_alone() -> None:
    adata = cells()
    c2s.tl.embed(adata, model=fake(), **QUIET)
    part, rows = reordered(adata)
    del part.obsm["X_cell2sen"]
    c2s.tl.embed(part, model=fake(), **QUIET)
    np.testing.assert_array_equal(part.obsm["X_cell2sen"], adata.obsm["X_cell2sen"][rows])


def test_label_depends_on_the_cell_alone() -> None:
    adata = cells()
    c2s.tl.annotate(adata, LABELS, model=fake(), **QUIET)
    part, rows = reordered(adata)
    c2s.tl.annotate(part, LABELS, model=fake(), **QUIET)
    key = "cell2sen_cell_type_probabilities"
    np.testing.assert_array_equal(part.obsm[key], adata.obsm[key][rows])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_prediction_depends_on_the_cell_alone(temperature: float) -> None:
    adata, model = cells(), tiny.backend(model=fake().model)
    options: dict[str, Any] = {"model": model, "temperature": temperature, "n_genes": 8, "seed": 3, **QUIET}
    whole = c2s.tl.perturb(adata, "IFN-beta", **options)
    part = c2s.tl.perturb(adata[[4, 1, 5]].copy(), "IFN-beta", **options)
    assert list(part.obs["sentence"]) == list(whole.obs["sentence"].iloc[[4, 1, 5]])
    if temperature:
        assert list(c2s.tl.perturb(adata, "IFN-beta", **{**options, "seed": 4}).obs["sentence"]) != list(
            whole.obs["sentence"]
        )


def test_batch_size_changes_nothing() -> None:
    adata, model = cells(), tiny.backend(model=fake().model)
    c2s.tl.embed(adata, model=model, key_added="one", **QUIET)
    model.batch_size = 2
    c2s.tl.embed(adata, model=model, key_added="two", **QUIET)
    np.testing.assert_allclose(adata.obsm["one"], adata.obsm["two"], rtol=1e-4, atol=1e-5)


# -- fault 1: the control's genes in the prediction


def test_prediction_holds_no_part_of_the_prompt() -> None:
    adata, model = cells(), tiny.backend(model=fake().model, batch_size=4)
    adata.X = sp.csr_matrix(adata.X.toarray() * np.tri(6, len(GENES), 20))  # prompts of unequal length
    together = c2s.tl.perturb(adata, "IFN-beta", guided=False, max_new_tokens=12, model=model, **QUIET)
    for row in range(adata.n_obs):
        alone = c2s.tl.perturb(adata[[row]].copy(), "IFN-beta", guided=False, max_new_tokens=12, model=model, **QUIET)
        assert alone.obs["validity"].iloc[0] == together.obs["validity"].iloc[row]
    guided = c2s.tl.perturb(adata, "IFN-beta", n_genes=5, model=model, **QUIET)
    for row, sentence in enumerate(guided.obs["sentence"]):
        words = sentence.split()
        assert len(words) == len(set(words)) == min(5, int((adata.X[row] > 0).sum()))


# -- one object, two organisms (fault 7)


class Listener:
    """A fake that remembers the prompts it was given."""

    def __init__(self) -> None:
        self.backend = fake()
        self.prompts: list[Any] = []
        for verb in ("embed", "score", "generate"):
            setattr(self.backend, verb, self._listen(getattr(self.backend, verb)))

    def _listen(self, verb: Any) -> Any:
        def heard(prompts: Any, *args: Any, **options: Any) -> Any:
            self.prompts += prompts
            return verb(prompts, *args, **options)

        return heard


def test_each_cell_has_its_own_organism_and_none_sticks() -> None:
    adata, listener = cells(), Listener()
    adata.obs["organism"] = ["human", "mouse"] * 3
    c2s.tl.embed(adata, model=listener.backend, **QUIET)
    names = ["Homo sapiens", "Mus musculus"] * 3
    assert all(name in prompt.text for name, prompt in zip(names, listener.prompts, strict=True))
    assert adata.uns["cell2sen"]["embed"]["organism"] == "Homo sapiens and Mus musculus"
    listener.prompts.clear()
    c2s.tl.embed(cells(), model=listener.backend, **QUIET)
    assert all("Homo sapiens" in prompt.text for prompt in listener.prompts)


# -- in memory, backed, views, copies


def test_backed_gives_what_memory_gives(tmp_path: Path) -> None:
    adata = cells()
    adata.write_h5ad(tmp_path / "in.h5ad")
    before = (tmp_path / "in.h5ad").read_bytes()
    backed = anndata.read_h5ad(tmp_path / "in.h5ad", backed="r")
    for one in (adata, backed):
        c2s.tl.embed(one, model=fake(), **QUIET)
        c2s.tl.annotate(one, LABELS, model=fake(), **QUIET)
    np.testing.assert_array_equal(backed.obsm["X_cell2sen"], adata.obsm["X_cell2sen"])
    assert backed.obs["cell2sen_cell_type"].tolist() == adata.obs["cell2sen_cell_type"].tolist()
    perturbed = [c2s.tl.perturb(one, "IFN-beta", model=fake(), **QUIET) for one in (adata, backed)]
    assert perturbed[0].obs["sentence"].tolist() == perturbed[1].obs["sentence"].tolist()
    backed.file.close()
    assert (tmp_path / "in.h5ad").read_bytes() == before


def test_copy_of_a_backed_object_is_in_memory(tmp_path: Path) -> None:
    cells().write_h5ad(tmp_path / "in.h5ad")
    backed = anndata.read_h5ad(tmp_path / "in.h5ad", backed="r")
    for source in (backed, backed[[2, 0]]):
        copied = c2s.tl.embed(source, model=fake(), copy=True, **QUIET)
        assert copied is not None
        assert not copied.isbacked
        assert copied.obsm["X_cell2sen"].shape == (source.n_obs, 16)
        assert "X_cell2sen" not in source.obsm
    backed.file.close()


def test_view_of_a_file_is_refused_before_any_work(tmp_path: Path) -> None:
    cells().write_h5ad(tmp_path / "in.h5ad")
    backed, listener = anndata.read_h5ad(tmp_path / "in.h5ad", backed="r"), Listener()
    with pytest.raises(ValueError, match=r"view of a backed file.*to_memory"):
        c2s.tl.embed(backed[[1, 2]], model=listener.backend, **QUIET)
    assert not listener.prompts
    backed.file.close()


def test_view_becomes_actual_and_its_parent_stays() -> None:
    adata = cells()
    view = adata[[3, 1]]
    with pytest.warns(anndata.ImplicitModificationWarning):
        c2s.tl.embed(view, model=fake(), **QUIET)
    assert view.obsm["X_cell2sen"].shape == (2, 16)
    assert "X_cell2sen" not in adata.obsm


@pytest.mark.parametrize("verb", ["embed", "annotate"])
def test_copy_leaves_the_input_alone(verb: str) -> None:
    adata = cells()
    matrix = adata.X.copy()
    arguments = [LABELS] if verb == "annotate" else []
    copied = getattr(c2s.tl, verb)(adata, *arguments, model=fake(), copy=True, **QUIET)
    assert "cell2sen" in copied.uns
    assert set(adata.uns) == {"organism"}
    assert not adata.obsm
    assert list(adata.obs) == ["donor"]
    assert (matrix != adata.X).nnz == 0


@pytest.mark.parametrize("kind", ["layer", "raw"])
def test_other_matrices_are_used_and_recorded(kind: str) -> None:
    adata = cells()
    plain = c2s.tl.embed(adata, model=fake(), copy=True, **QUIET)
    other = cells(seed=9)
    other.obs_names = adata.obs_names
    if kind == "layer":
        adata.layers["counts"] = other.X
        options: dict[str, Any] = {"layer": "counts"}
    else:
        adata.raw = other
        options = {"use_raw": True}
    found = c2s.tl.embed(adata, model=fake(), copy=True, **options, **QUIET)
    expected = c2s.tl.embed(other, model=fake(), copy=True, **QUIET)
    assert plain is not None
    assert found is not None
    assert expected is not None
    np.testing.assert_array_equal(found.obsm["X_cell2sen"], expected.obsm["X_cell2sen"])
    assert plain.uns["cell2sen"]["embed"]["matrix"] == "X"
    assert found.uns["cell2sen"]["embed"]["matrix"] == {"layer": "counts", "raw": "raw.X"}[kind]


# -- files


def test_everything_survives_a_file(tmp_path: Path) -> None:
    adata = cells()
    adata.obs_names = ["a/b", "a%2Fb", "a|b", ".", "ä ö", "c5"]
    c2s.tl.embed(adata, model=fake(), attention_for=list(adata.obs_names), **QUIET)
    c2s.tl.annotate(adata, LABELS, model=fake(), threshold=0.4, **QUIET)
    again = written_and_read(adata, tmp_path)
    assert_same(dict(adata.uns["cell2sen"]), again.uns["cell2sen"])
    assert len(again.uns["cell2sen"]["attention"]) == 6
    assert again.obs["cell2sen_cell_type"].dtype == "category"
    np.testing.assert_array_equal(again.obsm["X_cell2sen"], adata.obsm["X_cell2sen"])
    # With results already there, everything is replaced.
    c2s.tl.annotate(again, ["T cell", "B cell"], model=fake(), **QUIET)
    c2s.tl.embed(again, model=fake(), pooling="genes", **QUIET)
    assert set(again.obs["cell2sen_cell_type"]) <= {"T cell", "B cell"}
    assert again.uns["cell2sen"]["annotate"]["labels"].tolist() == ["T cell", "B cell"]
    assert again.uns["cell2sen"]["embed"]["pooling"] == "genes"
    assert "attention" not in again.uns["cell2sen"]  # those were of the embedding before
    third = written_and_read(again, tmp_path)
    assert_same(dict(again.uns["cell2sen"]), third.uns["cell2sen"])


def test_predictions_survive_a_file(tmp_path: Path) -> None:
    predicted = c2s.tl.perturb(cells(), "IFN-beta", model=fake(), **QUIET)
    drawn = c2s.tl.generate("B cell", n=2, genes=GENES, model=fake(), **QUIET)
    for one in (predicted, drawn):
        again = written_and_read(one, tmp_path)
        assert_same(dict(one.uns["cell2sen"]), again.uns["cell2sen"])
        assert again.obs["sentence"].tolist() == one.obs["sentence"].tolist()
        assert (again.X != one.X).nnz == 0


def test_predicted_cells_can_be_perturbed_again() -> None:
    first = c2s.tl.perturb(cells(), "IFN-beta", model=fake(), **QUIET)
    second = c2s.tl.perturb(first, "IFN-beta", model=fake(), **QUIET)
    third = c2s.tl.perturb(second, perturbation_column="perturbation", model=fake(), **QUIET)
    assert not third.obs.columns.duplicated().any()
    assert set(second.obs["perturbation_before"]) == {"IFN-beta"}


# -- attention maps


def test_attention_by_name_and_number() -> None:
    adata = cells()
    c2s.tl.embed(adata, model=fake(), attention_for=["c4", 1], **QUIET)
    maps = adata.uns["cell2sen"]["attention"]
    assert set(maps) == {"c4", "c1"}
    assert maps["c4"]["map"].shape == (2, len(maps["c4"]["genes"]), len(maps["c4"]["genes"]))
    row = adata.X[4].toarray().ravel()
    assert maps["c4"]["genes"][0] == adata.var_names[row == row.max()][0] or (row == row.max()).sum() > 1


@pytest.mark.parametrize(
    ("wanted", "error"),
    [(["nobody"], KeyError), ([17], ValueError), ([-1], ValueError), ("c1", ValueError)],
)
def test_attention_of_cells_that_do_not_exist(wanted: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"no cell|must be a list"):
        c2s.tl.embed(cells(), model=fake(), attention_for=wanted, **QUIET)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.parametrize("wanted", ["c0", 1])
def test_attention_of_an_ambiguous_name(wanted: str | int) -> None:
    adata = cells()
    adata.obs_names = ["c0", "c0", "c2", "c3", "c4", "c5"]
    with pytest.raises(ValueError, match=r"several cells.*obs_names_make_unique"):
        c2s.tl.embed(adata, model=fake(), attention_for=[wanted], **QUIET)
    c2s.tl.embed(adata, model=fake(), attention_for=["c2"], **QUIET)


# -- annotate: a closed set


def test_probabilities_are_a_distribution_and_scores_their_maximum() -> None:
    adata = cells()
    c2s.tl.annotate(adata, LABELS, model=fake(), threshold=0.5, **QUIET)
    probabilities = adata.obsm["cell2sen_cell_type_probabilities"]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(adata.obs["cell2sen_cell_type_score"], probabilities.max(axis=1))
    best = [LABELS[column] for column in probabilities.argmax(axis=1)]
    expected = [
        label if score >= 0.5 else "unknown" for label, score in zip(best, probabilities.max(axis=1), strict=True)
    ]
    assert adata.obs["cell2sen_cell_type"].tolist() == expected
    assert adata.uns["cell2sen"]["annotate"]["calibrated"] is False


def test_calibration_temperature_is_applied_and_said() -> None:
    adata, cold = cells(), cells()
    c2s.tl.annotate(adata, LABELS, model=fake(), **QUIET)
    c2s.tl.annotate(cold, LABELS, model=fake(calibration={"annotate": {"temperature": 2.0}}), **QUIET)
    key = "cell2sen_cell_type_probabilities"
    softer = np.sqrt(adata.obsm[key])
    np.testing.assert_allclose(cold.obsm[key], softer / softer.sum(axis=1, keepdims=True))
    assert cold.uns["cell2sen"]["annotate"]["calibrated"] is True


def test_labels_of_the_model_are_the_default() -> None:
    adata = cells()
    c2s.tl.annotate(adata, model=fake(), **QUIET)
    assert adata.uns["cell2sen"]["annotate"]["labels"].tolist() == LABELS  # not the one of two cells
    with pytest.raises(ValueError, match="brings no list of labels"):
        c2s.tl.annotate(adata, model=fake(labels=None), **QUIET)


def test_unknown_may_be_a_label() -> None:
    adata = cells(30)
    c2s.tl.annotate(adata, ["B cell", "unknown"], threshold=0.6, model=fake(), **QUIET)
    assert adata.obs["cell2sen_cell_type"].cat.categories.tolist() == ["B cell", "unknown"]


@pytest.mark.parametrize(
    "labels",
    ["B cell", [], ["B cell"], ["B cell", " B cell"], ["B cell", ""], ["B cell", None], ["B cell", float("nan")]],
)
def test_labels_that_are_no_closed_set(labels: Any) -> None:
    with pytest.raises(ValueError, match="labels must"):
        c2s.tl.annotate(cells(), labels, model=fake(), **QUIET)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        c2s.tl.annotate(cells(), LABELS, threshold=threshold, model=fake(), **QUIET)


def test_labels_in_other_containers() -> None:
    for labels in (pd.Series(LABELS), np.array(LABELS), pd.Index(LABELS), tuple(LABELS), pd.Categorical(LABELS)):
        adata = cells()
        c2s.tl.annotate(adata, labels, model=fake(), **QUIET)
        assert adata.uns["cell2sen"]["annotate"]["labels"].tolist() == LABELS


# -- perturb: who is predicted (fault 8)


@pytest.mark.parametrize("missing", [None, float("nan"), "", pd.NA, " "])
def test_missing_perturbations_skip_the_cell(missing: Any) -> None:
    adata = cells()
    wanted = ["IFN-beta", missing, "IFN-beta", missing, missing, "IFN-beta"]
    predicted = c2s.tl.perturb(adata, wanted, model=fake(), **QUIET)
    assert list(predicted.obs_names) == ["c0", "c2", "c5"]
    adata.obs["pert"] = pd.Series(wanted, index=adata.obs_names, dtype=object)
    from_column = c2s.tl.perturb(adata, perturbation_column="pert", model=fake(), **QUIET)
    assert from_column.obs["sentence"].tolist() == predicted.obs["sentence"].tolist()


def test_missing_perturbations_after_a_file(tmp_path: Path) -> None:
    adata = cells()
    adata.obs["pert"] = pd.Categorical(["IFN-beta", None, "IL-6", None, "IFN-beta", None])
    predicted = c2s.tl.perturb(written_and_read(adata, tmp_path), perturbation_column="pert", model=fake(), **QUIET)
    assert predicted.obs["perturbation"].tolist() == ["IFN-beta", "IL-6", "IFN-beta"]


def test_wrong_perturbations() -> None:
    adata = cells()
    adata.obs["pert"] = [None] * 6
    with pytest.raises(ValueError, match="6 cells, found 2"):
        c2s.tl.perturb(adata, ["IFN-beta", None], model=fake(), **QUIET)
    with pytest.raises(ValueError, match="no cell has a perturbation"):
        c2s.tl.perturb(adata, [None] * 6, model=fake(), **QUIET)
    with pytest.raises(ValueError, match="no cell has a perturbation"):
        c2s.tl.perturb(adata, perturbation_column="pert", model=fake(), **QUIET)
    with pytest.raises(KeyError, match=r"no column 'perturb'; available: \['donor', 'pert'\]"):
        c2s.tl.perturb(adata, perturbation_column="perturb", model=fake(), **QUIET)
    with pytest.raises(ValueError, match="either"):
        c2s.tl.perturb(adata, model=fake(), **QUIET)
    with pytest.raises(ValueError, match="either"):
        c2s.tl.perturb(adata, "IFN-beta", perturbation_column="pert", model=fake(), **QUIET)


def test_delta_is_prediction_minus_control_in_natural_logarithms() -> None:
    adata = cells()
    predicted = c2s.tl.perturb(adata, "IFN-beta", n_genes=7, model=fake(), **QUIET)
    control = predicted.layers["control"].toarray()
    np.testing.assert_allclose(predicted.layers["delta"].toarray(), predicted.X.toarray() - control)
    assert ((control > 0).sum(axis=1) <= 7).all()
    fit = predicted.uns["cell2sen"]["perturb"]["fit"]
    np.testing.assert_allclose(control.max(axis=1), max(fit["intercept"], 0) * np.log(10), rtol=1e-6)
    first = predicted.var_names[predicted.X.toarray().argmax(axis=1)]
    assert list(first) == [sentence.split()[0] for sentence in predicted.obs["sentence"]]


def test_unguided_answers_report_what_is_no_gene() -> None:
    predicted = c2s.tl.perturb(cells(), "IFN-beta", guided=False, max_new_tokens=9, model=fake(), **QUIET)
    words = predicted.obs["n_unknown"] + predicted.obs["n_repeated"]
    assert (words > 0).all()
    assert (predicted.obs["validity"] < 1).all()
    assert (c2s.tl.perturb(cells(), "IFN-beta", model=fake(), **QUIET).obs["validity"] == 1).all()


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_drawn_answers_need_unique_names() -> None:
    adata = cells()
    adata.obs_names = ["c0"] * 6
    with pytest.raises(ValueError, match="unique where answers are drawn"):
        c2s.tl.perturb(adata, "IFN-beta", temperature=1.0, model=fake(), **QUIET)
    assert c2s.tl.perturb(adata, "IFN-beta", model=fake(), **QUIET).n_obs == 6


# -- generate


def test_drawn_cells_differ_and_repeat_with_the_seed() -> None:
    options: dict[str, Any] = {"n": 4, "genes": GENES, "n_genes": 6, "model": fake(), **QUIET}
    one, same, other = (c2s.tl.generate("B cell", seed=seed, **options) for seed in (0, 0, 1))
    assert len(set(one.obs["sentence"])) > 1
    assert one.obs["sentence"].tolist() == same.obs["sentence"].tolist() != other.obs["sentence"].tolist()
    more = c2s.tl.generate(["NK cell", "B cell"], **{**options, "n": 6})
    assert more.obs.loc[one.obs_names, "sentence"].tolist() == one.obs["sentence"].tolist()


def test_genes_of_generated_cells(tmp_path: Path) -> None:
    adata = cells()
    adata.uns["organism"] = "mouse"
    adata.write_h5ad(tmp_path / "genes.h5ad")
    for genes in (adata, tmp_path / "genes.h5ad", str(tmp_path / "genes.h5ad")):
        drawn = c2s.tl.generate("B cell", n=1, genes=genes, model=fake(), **QUIET)
        assert list(drawn.var_names) == GENES
        assert drawn.uns["cell2sen"]["generate"]["organism"] == "Mus musculus"
    own = c2s.tl.generate("B cell", n=1, model=fake(genes=GENES[:9]), **QUIET)
    assert list(own.var_names) == GENES[:9]
    assert own.uns["cell2sen"]["generate"]["organism"] == "Homo sapiens"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"cell_type": []}, "one name or several"),
        ({"cell_type": [""]}, "one name or several"),
        ({"cell_type": ["B cell", "B cell"]}, "must differ"),
        ({"n": 0}, "n must be at least 1"),
        ({"n_genes": 0}, "n_genes must be at least 1"),
        ({"n_genes": 1000}, "only 3[0-9]|only [0-9]+ to choose from"),
        ({"genes": None}, "brings no list of genes"),
        ({"genes": ["CD4", "two words"]}, "1 of 2 genes are not known to fake.*two words"),
        ({"organism": ["human", "mouse"]}, "one name"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 2.0}, "top_p"),
    ],
)
def test_what_cannot_be_generated(arguments: dict[str, Any], match: str) -> None:
    options = {"cell_type": "B cell", "genes": GENES, "model": fake(), **QUIET, **arguments}
    with pytest.raises(ValueError, match=match):
        c2s.tl.generate(**options)


# -- bad input: a clear error, and nothing is lost


def with_values(change: Any) -> anndata.AnnData:
    adata = cells()
    dense = adata.X.toarray()
    change(dense)
    adata.X = sp.csr_matrix(dense)
    return adata


def assign(value: float, rows: Any = 1, columns: Any = 2) -> Any:
    def change(dense: Any) -> None:
        dense[rows, columns] = value

    return change


BAD: dict[str, tuple[Any, str]] = {
    "no cells": (lambda: cells()[:0].copy(), "is empty: 0 cells"),
    "no genes": (lambda: cells()[:, :0].copy(), "is empty: 6 cells and 0 genes"),
    "all zero": (lambda: with_values(assign(0, slice(None), slice(None))), "none of the 6 cells has an expressed gene"),
    "negative": (lambda: with_values(assign(-1.5)), "must not be negative.*z-scores"),
    "infinite": (lambda: with_values(assign(np.inf)), "must be finite"),
}


@pytest.mark.parametrize("verb", ["embed", "annotate", "perturb"])
@pytest.mark.parametrize("case", sorted(BAD))
def test_unusable_matrices(verb: str, case: str) -> None:
    make, match = BAD[case]
    adata = make()
    arguments = {"embed": [], "annotate": [LABELS], "perturb": [["IFN-beta"] * adata.n_obs]}[verb]
    if verb == "perturb" and adata.n_obs == 0:
        arguments = ["IFN-beta"]
        match = "no cell|empty"
    with pytest.raises(ValueError, match=match):
        getattr(c2s.tl, verb)(adata, *arguments, model=fake(), **QUIET)
    assert "cell2sen" not in adata.uns


def test_cells_without_genes_get_no_result_and_the_others_theirs(caplog: pytest.LogCaptureFixture) -> None:
    adata, whole = with_values(assign(0, 2, slice(None))), cells()
    with caplog.at_level(logging.WARNING):
        c2s.tl.embed(adata, model=fake(), attention_for=[2, 3], **QUIET)
    assert "1 of 6 cells have no expressed gene" in caplog.text
    assert "c2" in caplog.text
    c2s.tl.embed(whole, model=fake(), **QUIET)
    assert np.isnan(adata.obsm["X_cell2sen"][2]).all()
    keep = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(adata.obsm["X_cell2sen"][keep], whole.obsm["X_cell2sen"][keep])
    assert set(adata.uns["cell2sen"]["attention"]) == {"c3"}
    c2s.tl.annotate(adata, LABELS, model=fake(), **QUIET)
    assert adata.obs["cell2sen_cell_type"].iloc[2] == "unknown"
    assert adata.obs["cell2sen_cell_type_score"].iloc[2] == 0
    assert np.isnan(adata.obsm["cell2sen_cell_type_probabilities"][2]).all()
    predicted = c2s.tl.perturb(adata, "IFN-beta", model=fake(), **QUIET)
    assert list(predicted.obs_names) == ["c0", "c1", "c3", "c4", "c5"]
    with pytest.raises(ValueError, match="none of the cells to predict"):
        c2s.tl.perturb(adata, [None, None, "IFN-beta", None, None, None], model=fake(), **QUIET)


def test_missing_values_are_not_genes(caplog: pytest.LogCaptureFixture) -> None:
    with_nan, with_zero = with_values(assign(np.nan)), with_values(assign(0))
    with caplog.at_level(logging.WARNING):
        c2s.tl.embed(with_nan, model=fake(), **QUIET)
    assert "1 missing values (NaN)" in caplog.text
    c2s.tl.embed(with_zero, model=fake(), **QUIET)
    np.testing.assert_array_equal(with_nan.obsm["X_cell2sen"], with_zero.obsm["X_cell2sen"])


def test_unknown_arguments_list_the_known_ones() -> None:
    with pytest.raises(TypeError, match=r"unknown arguments \['modle'\]; available: \['aliases', 'backend'"):
        c2s.tl.embed(cells(), modle="nano")
    with pytest.raises(TypeError, match="unknown arguments"):
        c2s.tl.generate("B cell", genes=GENES, seeds=3)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"layer": "counts"}, KeyError, r"no 'counts'; available: \[\]"),
        ({"use_raw": True}, KeyError, "no adata.raw"),
        ({"pooling": "max"}, ValueError, r"no pooling 'max'; available: \['mean', 'genes', 'last'\]"),
        ({"hidden_layer": 3}, ValueError, "no layer 3; available: -1"),
        ({"max_genes": 0}, ValueError, "max_genes must be at least 1"),
        ({"ties": "coin"}, ValueError, "ties must be one of"),
        ({"templates": "nowhere.json"}, FileNotFoundError, "JSON file"),
        ({"organism": ["human"]}, ValueError, "6 cells, found 1"),
        ({"symbols": "symbol"}, KeyError, "symbol"),
        ({"dtype": "float16"}, ValueError, "loaded already: dtype"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        c2s.tl.embed(cells(), model=fake(), **options, **QUIET)


def test_long_prompts_lose_genes_and_say_how_many(caplog: pytest.LogCaptureFixture) -> None:
    adata, listener = cells(), Listener()
    listener.backend.context = 45
    with caplog.at_level(logging.WARNING):
        c2s.tl.annotate(adata, LABELS, model=listener.backend, **QUIET)
    assert "genes were cut" in caplog.text
    listener.backend.context = 5
    with pytest.raises(ValueError, match="without any genes"):
        c2s.tl.annotate(adata, LABELS, model=listener.backend, **QUIET)


def test_more_genes_than_the_model_was_trained_with_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        c2s.tl.embed(cells(), model=fake(lengths={"annotate": 9}), max_genes=30, **QUIET)
    assert "with 9 genes per sentence: max_genes=30 changes nothing" in caplog.text


def test_names_that_the_model_was_not_trained_on_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        c2s.tl.perturb(cells(), "IL-6", model=fake(), **QUIET)
        c2s.tl.annotate(cells(), ["B cell", "astrocyte"], model=fake(), **QUIET)
    assert caplog.text.count("not trained on the perturbations ['IL-6']") == 1
    assert caplog.text.count("not trained on the labels ['astrocyte']") == 1
    assert "did you mean" not in caplog.text
    c2s.tl.perturb(cells(), "ifn beta", model=fake(), **QUIET)
    assert "did you mean 'IFN-beta' for 'ifn beta'?" in caplog.text


def test_organisms_that_the_model_was_not_trained_on_are_said(caplog: pytest.LogCaptureFixture) -> None:
    model = fake(organisms=["Homo sapiens", "Mus musculus"])
    with caplog.at_level(logging.WARNING):
        c2s.tl.embed(cells(), organism="mouse", model=model, **QUIET)
        assert "not trained on cells of" not in caplog.text
        c2s.tl.embed(cells(), organism="Danio rerio", model=model, **QUIET)
    assert "not trained on cells of ['Danio rerio'], only on ['Homo sapiens', 'Mus musculus']" in caplog.text


@pytest.mark.parametrize("verb", [c2s.tl.embed, c2s.tl.annotate, c2s.tl.perturb])
def test_a_path_is_no_object(verb: Any) -> None:
    with pytest.raises(TypeError, match=r"expected an AnnData object, found str: open a file with anndata.read_h5ad"):
        verb("cells.h5ad")
