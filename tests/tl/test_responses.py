"""tl.perturb: predictions, missing perturbations and quality columns."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import tiny
from anndata_objects import QUIET, written_and_read
from cells import GENES, cells, fake

import cell2sen as c2s


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_prediction_depends_on_the_cell_alone(temperature: float) -> None:
    adata, model = cells(), tiny.backend(model=fake().model)
    options: dict[str, Any] = {"model": model, "temperature": temperature, "n_genes": 8, "seed": 3, **QUIET}
    all_cells = c2s.tl.perturb(adata, "IFN-beta", **options)
    part = c2s.tl.perturb(adata[[4, 1, 5]].copy(), "IFN-beta", **options)
    assert list(part.obs["sentence"]) == list(all_cells.obs["sentence"].iloc[[4, 1, 5]])
    if temperature:
        assert list(c2s.tl.perturb(adata, "IFN-beta", **{**options, "seed": 4}).obs["sentence"]) != list(
            all_cells.obs["sentence"]
        )


def test_prediction_contains_no_part_of_the_prompt() -> None:
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


@pytest.mark.parametrize("missing", [None, float("nan"), "", pd.NA, " "])
def test_missing_perturbations_skip_the_cell(missing: Any) -> None:
    adata = cells()
    perturbations = ["IFN-beta", missing, "IFN-beta", missing, missing, "IFN-beta"]
    predicted = c2s.tl.perturb(adata, perturbations, model=fake(), **QUIET)
    assert list(predicted.obs_names) == ["c0", "c2", "c5"]
    adata.obs["pert"] = pd.Series(perturbations, index=adata.obs_names, dtype=object)
    from_column = c2s.tl.perturb(adata, perturbation_column="pert", model=fake(), **QUIET)
    assert from_column.obs["sentence"].tolist() == predicted.obs["sentence"].tolist()


def test_missing_perturbations_after_a_file(tmp_path: Path) -> None:
    adata = cells()
    adata.obs["pert"] = pd.Categorical(["IFN-beta", None, "IL-6", None, "IFN-beta", None])
    read, model = written_and_read(adata, tmp_path), fake(perturbations={"IFN-beta": 4, "IL-6": 4})
    predicted = c2s.tl.perturb(read, perturbation_column="pert", model=model, **QUIET)
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
    with pytest.raises(ValueError, match="pass perturbation="):
        c2s.tl.perturb(adata, model=fake(), **QUIET)
    with pytest.raises(ValueError, match="no control cells"):
        c2s.tl.perturb(adata, "IFN-beta", perturbation_column="pert", model=fake(), **QUIET)


def test_delta_is_prediction_minus_control_in_natural_logarithms() -> None:
    adata = cells()
    predicted = c2s.tl.perturb(adata, "IFN-beta", n_genes=7, model=fake(), **QUIET)
    control = predicted.layers["control"].toarray()
    np.testing.assert_allclose(predicted.layers["delta"].toarray(), predicted.X.toarray() - control)
    assert ((control > 0).sum(axis=1) <= 7).all()
    counts = adata.X.toarray()
    measured = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    np.testing.assert_allclose(control, np.where(control > 0, measured, 0), rtol=1e-5)
    # The prediction has the values of the control, in another order of genes.
    np.testing.assert_array_equal(np.sort(predicted.X.toarray(), axis=1), np.sort(control, axis=1))
    for cell, sentence in enumerate(predicted.obs["sentence"]):  # in the order of the sentence, with ties
        values = predicted.X.toarray()[cell, predicted.var_names.get_indexer(sentence.split())]
        assert (np.diff(values) <= 0).all()
        assert values[0] == predicted.X.toarray()[cell].max()


def test_unguided_answers_count_words_that_are_no_genes() -> None:
    predicted = c2s.tl.perturb(cells(), "IFN-beta", guided=False, max_new_tokens=9, model=fake(), **QUIET)
    words = predicted.obs["n_unknown"] + predicted.obs["n_repeated"]
    assert (words > 0).all()
    assert (predicted.obs["validity"] < 1).all()
    assert (predicted.obs["uniqueness"] <= 1).all()
    guided = c2s.tl.perturb(cells(), "IFN-beta", model=fake(), **QUIET)
    assert (guided.obs[["validity", "uniqueness"]] == 1).all(axis=None)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_drawn_answers_need_unique_names() -> None:
    adata = cells()
    adata.obs_names = ["c0"] * 6
    with pytest.raises(ValueError, match="unique where answers are drawn"):
        c2s.tl.perturb(adata, "IFN-beta", temperature=1.0, model=fake(), **QUIET)
    assert c2s.tl.perturb(adata, "IFN-beta", model=fake(), **QUIET).n_obs == 6


def test_predicted_cells_can_be_perturbed_again() -> None:
    first = c2s.tl.perturb(cells(), "IFN-beta", model=fake(), **QUIET)
    second = c2s.tl.perturb(first, "IFN-beta", model=fake(), **QUIET)
    third = c2s.tl.perturb(second, perturbation_column="perturbation", model=fake(), **QUIET)
    assert not third.obs.columns.duplicated().any()
    assert set(second.obs["perturbation_before"]) == {"IFN-beta"}


def mixed(names: list[Any]) -> Any:
    adata = cells()
    adata.obs["condition"] = pd.Series(names, index=adata.obs_names, dtype=object)
    return adata


@pytest.mark.parametrize("control", ["control", "ctrl", "DMSO", "non-targeting", "Vehicle", "unperturbed"])
def test_controls_in_the_column_get_no_response(control: str, caplog: pytest.LogCaptureFixture) -> None:
    adata = mixed([control, "IFN-beta"] * 3)
    predicted = c2s.tl.perturb(adata, perturbation_column="condition", model=fake(), **QUIET)
    assert predicted.obs["perturbation"].tolist() == ["IFN-beta"] * 3
    assert predicted.obs_names.tolist() == ["c1", "c3", "c5"]
    assert f"3 of 6 cells are controls ('{control}') and get no response" in caplog.text
    named = c2s.tl.perturb(adata, perturbation_column="condition", control=(), force=True, model=fake(), **QUIET)
    assert named.obs["perturbation"].tolist() == [control, "IFN-beta"] * 3
    listed = c2s.tl.perturb(adata, list(adata.obs["condition"]), model=fake(), **QUIET)
    assert listed.obs_names.tolist() == ["c1", "c3", "c5"]


def test_controls_under_another_name_and_trained_ones() -> None:
    adata = mixed(["WT", "IFN-beta"] * 3)
    predicted = c2s.tl.perturb(adata, perturbation_column="condition", control="WT", model=fake(), **QUIET)
    assert predicted.obs_names.tolist() == ["c1", "c3", "c5"]
    trained = fake(perturbations={"DMSO": 5, "IFN-beta": 5})
    predicted = c2s.tl.perturb(mixed(["DMSO", "IFN-beta"] * 3), perturbation_column="condition", model=trained, **QUIET)
    assert predicted.n_obs == 6
    with pytest.raises(ValueError, match="'DMSO' are names of controls, which get no response"):
        c2s.tl.perturb(adata, "DMSO", model=fake(), **QUIET)


@pytest.mark.parametrize(
    ("names", "control"), [(["ctrl", "IL-6"] * 3, "ctrl"), ([None, "IL-6"] * 3, ""), (["NA", "x"] * 3, None)]
)
def test_of_a_mixed_file_only_the_controls_are_perturbed(names: list[Any], control: Any) -> None:
    options: dict[str, Any] = {"perturbation_column": "condition", "control": control, "model": fake(), **QUIET}
    predicted = c2s.tl.perturb(mixed(names), "IFN-beta", **options)
    assert predicted.obs_names.tolist() == ["c0", "c2", "c4"]
    assert set(predicted.obs["perturbation"]) == {"IFN-beta"}
    with pytest.raises(ValueError, match="no control cells"):
        c2s.tl.perturb(mixed(["x"] * 6), "IFN-beta", **options)


@pytest.mark.parametrize("control", ["auto", "ctrl"])
def test_controls_of_a_mixed_file_are_found(control: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cell2sen")
    predicted = c2s.tl.perturb(mixed(["ctrl", "stim"] * 3), "IFN-beta", control=control, model=fake(), **QUIET)
    assert predicted.obs_names.tolist() == ["c0", "c2", "c4"]
    message = "responses of the 3 controls in obs['condition'] ('ctrl'); not of 'stim'. control=() predicts all cells"
    assert message in caplog.text
    named = c2s.tl.perturb(
        mixed(["ctrl", "stim"] * 3), "IFN-beta", perturbation_column="condition", model=fake(), **QUIET
    )
    assert named.obs_names.tolist() == ["c0", "c2", "c4"]


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["ctrl", "stim"] * 3, {"control": ()}),
        (["ctrl"] * 6, {}),
        (["stim", "other"] * 3, {}),
        (["resting", "stim"] * 3, {}),  # a state of cells
        (["ctrl", "stim"] * 3, {"model": fake(perturbations={"ctrl": 9, "IFN-beta": 9})}),
    ],
)
def test_all_cells_are_perturbed_where_none_are_marked(names: list[Any], options: dict[str, Any]) -> None:
    assert c2s.tl.perturb(mixed(names), "IFN-beta", **{"model": fake(), **QUIET, **options}).n_obs == 6


def test_controls_that_no_column_has() -> None:
    with pytest.raises(ValueError, match="no column of obs has controls called 'untouched' beside other cells"):
        c2s.tl.perturb(mixed(["ctrl", "stim"] * 3), "IFN-beta", control="untouched", model=fake(), **QUIET)


def test_combinations_take_the_models_order(caplog: pytest.LogCaptureFixture) -> None:
    model = fake(perturbations={"A+B": 9})
    predicted = c2s.tl.perturb(cells(), "B + A", model=model, **QUIET)
    assert set(predicted.obs["perturbation"]) == {"A+B"}
    assert "'B + A' is 'A+B' in another order" in caplog.text


def test_labels_are_no_perturbations(caplog: pytest.LogCaptureFixture) -> None:
    adata = mixed(["B cell", "Lymphocyte"] * 3)
    model = fake(perturbations={"IFN-beta": 9}, labels={"B cell": 9}, spellings={"B cell": ["Lymphocyte"]})
    with pytest.raises(ValueError, match="was not trained on the perturbations 'B cell', 'Lymphocyte'"):
        c2s.tl.perturb(adata, perturbation_column="condition", model=model, **QUIET)
    assert "'B cell', 'Lymphocyte' are cell types, not perturbations" in caplog.text


@pytest.mark.parametrize("missing", ["nan", "NA", "None", "<NA>", "N/A"])
def test_missing_values_that_are_text_skip_the_cell(missing: str, caplog: pytest.LogCaptureFixture) -> None:
    adata = mixed(["IFN-beta", missing] * 3)
    assert c2s.tl.perturb(adata, perturbation_column="condition", model=fake(), **QUIET).n_obs == 3
    assert f"3 cells with '{missing}' were read as no perturbation" in caplog.text


def test_names_in_bytes() -> None:
    predicted = c2s.tl.perturb(
        mixed([b"IFN-beta", b"control"] * 3), perturbation_column="condition", model=fake(), **QUIET
    )
    assert predicted.obs["perturbation"].tolist() == ["IFN-beta"] * 3
