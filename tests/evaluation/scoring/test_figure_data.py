"""Data of the report's figures."""

from __future__ import annotations

import numpy as np
import pytest
from experiment import DRUGS, REAL, TWIN, TYPES, groups_of, means, own_prediction, perturbed

from cell2sen.evaluation.scoring import figure_data
from cell2sen.evaluation.scoring.pca import Embedding
from cell2sen.evaluation.scoring.resampling import Group


def test_top_changes_are_those_of_the_means() -> None:
    groups = groups_of(perturbed(TWIN))
    genes = sorted(REAL.var_names)
    true = groups.true_change(("beta", "T"))
    order = np.argsort(-np.abs(true))
    top, size = figure_data.top_changes(Group(groups, ("beta", "T"), None), true, order, genes)
    predicted = dict(zip(REAL.var_names, means(TWIN)["beta", "T"] - means(REAL)["control", "T"], strict=True))
    assert len(top["genes"]) == 50
    assert top["true"] == pytest.approx(list(true[order[:50]]))
    assert top["predicted"] == pytest.approx([predicted[gene] for gene in top["genes"]], abs=1e-5)
    assert size == pytest.approx(np.linalg.norm(list(predicted.values())) / np.linalg.norm(true), abs=1e-4)


def test_the_map_has_real_predicted_and_control_cells_of_each_group() -> None:
    groups = groups_of(perturbed(TWIN))
    assert figure_data.cells_of_map(Group(groups, ("beta", "T"), None)) == {}
    embedding = Embedding.fit("pca", groups.real.cells, np.arange(REAL.n_obs), 3)
    parts = [figure_data.cells_of_map(Group(groups, key, embedding)) for key in groups.keys]
    assert sum(len(cells["coordinates"]) for cells in parts) == len(DRUGS) * len(TYPES) * 3 * 36
    for key, cells in zip(groups.keys, parts, strict=True):
        assert cells["coordinates"].shape[1] == 3
        assert set(cells["kind"]) == {"real", "predicted", "control"}
        assert set(cells["group"]) == {" | ".join(key)}


def test_words_of_sentences_are_marked() -> None:
    predicted = own_prediction(REAL[REAL.obs["drug"] == "control"])
    genes = sorted(REAL.var_names)
    groups = groups_of(predicted)
    predicted.obs["sentence"] = "GENE1 GENE1 NOGENE"
    first, second = figure_data.example_sentences(groups_of(predicted), genes, frozenset(genes))
    assert (first["group"], second["group"], first["n_words"]) == ("alpha | B", "alpha | T", 3)
    kinds = [kind for _, kind in first["words"]]
    assert kinds[0] in ("gene", "top")
    assert kinds[1:] == ["repeated", "unknown"]
    del predicted.obs["sentence"]
    assert figure_data.example_sentences(groups_of(predicted), genes, frozenset(genes)) == []
    assert len(groups.keys) == 2
