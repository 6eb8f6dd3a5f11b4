"""Groups, halves, exchange partners and groups to learn from."""

from __future__ import annotations

import numpy as np
import pytest
from experiment import DRUGS, REAL, TWIN, TYPES, N, groups_of, means, own_prediction, perturbed, run

from cell2sen.evaluation.metrics import Missing
from cell2sen.evaluation.scoring.groups import derangement, notes_on, share_of_true_change

KEYS = [(drug, kind) for drug in DRUGS for kind in TYPES]


def test_groups_have_the_cells_and_controls_of_their_context() -> None:
    groups = groups_of(perturbed(TWIN))
    assert groups.keys == KEYS
    for drug, kind in KEYS:
        rows = groups.real.groups[drug, kind]
        assert set(REAL.obs["drug"].iloc[rows]) == {drug}
        assert set(REAL.obs["cell_type"].iloc[groups.real.controls[groups.context((drug, kind))]]) == {kind}
        first, second = groups.halves[drug, kind]
        assert len(first) == len(second) == N // 2
        assert set(first) | set(second) == set(rows)
    assert groups.true_change(("beta", "T")) == pytest.approx(
        (means(REAL)["beta", "T"] - means(REAL)["control", "T"])[np.argsort(REAL.var_names)], abs=1e-5
    )


def test_every_group_exchanges_with_another_one_of_its_context() -> None:
    partners = derangement(KEYS, lambda key: key[1:], np.random.default_rng(0))
    assert sorted(partners) == sorted(partners.values()) == sorted(KEYS)
    assert all(key != partner and key[1] == partner[1] for key, partner in partners.items())
    alone = derangement([("a", "B"), ("a", "T")], lambda key: key[1:], np.random.default_rng(0))
    assert alone == {("a", "B"): ("a", "T"), ("a", "T"): ("a", "B")}
    three = derangement([("a", "B"), ("b", "B"), ("a", "T")], lambda key: key[1:], np.random.default_rng(0))
    assert three["a", "T"] in (("a", "B"), ("b", "B"))
    assert derangement([("a", "B")], lambda key: key[1:], np.random.default_rng(0)) == {}


def test_baselines_learn_from_the_closest_groups() -> None:
    groups = groups_of(perturbed(TWIN))
    assert groups.source is groups.real
    assert groups.donors(("alpha", "B")) == [("alpha", "T")]
    trained = groups_of(perturbed(TWIN), train=TWIN)
    assert trained.source is trained.train
    assert trained.donors(("alpha", "B")) == [("alpha", "B")]
    one_type = groups_of(perturbed(TWIN), REAL[REAL.obs["cell_type"] == "B"].copy())
    assert one_type.donors(("alpha", "B")) == [("beta", "B"), ("gamma", "B")]
    one_group = REAL[(REAL.obs["cell_type"] == "B") & REAL.obs["drug"].isin(["control", "alpha"])].copy()
    with pytest.raises(Missing, match="no other group to learn from; pass train="):
        groups_of(perturbed(TWIN), one_group).donors(("alpha", "B"))


def test_predicted_cells_are_known_by_the_name_of_their_control() -> None:
    groups = groups_of(own_prediction(REAL[REAL.obs["drug"] == "control"]))
    for kind in TYPES:
        for half, rows in enumerate(groups.control_halves[(kind,)]):
            same = np.isin(groups.predicted.cells.names, groups.real.cells.names[rows])
            assert (groups.source_halves[same] == half).all()
    assert (groups_of(perturbed(TWIN)).source_halves == -1).all()


def test_notes_name_what_is_not_scored() -> None:
    predicted = perturbed(TWIN)
    predicted = predicted[predicted.obs["drug"] != "beta"].copy()
    predicted.obs["drug"] = predicted.obs["drug"].replace({"gamma": "delta"}).astype(str)
    notes = notes_on(groups_of(predicted, min_cells=19), 0.5)
    assert notes[0].startswith("not scored, as they were not predicted: 4 of 6 real groups (beta | B, beta | T, gamma")
    assert notes[1] == "not scored, as there are no such real cells: 2 of 4 predicted groups (delta | B, delta | T)"
    assert notes[2].startswith("the compared genes hold 50% of the squared true change")
    assert "fewer than 38 real cells, two halves of min_cells: alpha | B: 36, alpha | T: 36" in notes[3]


def test_share_of_the_true_change_equals_numpy() -> None:
    groups = groups_of(perturbed(TWIN)[:, 60:].copy())
    mean = {drug: np.mean([means(REAL)[drug, kind] for kind in TYPES], axis=0) for drug in ["control", *DRUGS]}
    change = np.mean([mean[drug] for drug in DRUGS], axis=0) - mean["control"]
    expected = (change[60:] ** 2).sum() / (change**2).sum()
    assert share_of_true_change(groups, REAL.n_vars) == pytest.approx(expected, abs=1e-5)
    assert len(groups.real.cells.columns) == 90


def test_missing_controls_and_groups_are_errors() -> None:
    with pytest.raises(ValueError, match=r"obs\['drug'\] of the real cells is never \['DMSO'\]; available: \['alpha'"):
        groups_of(perturbed(TWIN), control="DMSO")
    with pytest.raises(ValueError, match=r"obs\['drug'\] of the real cells is always"):
        groups_of(perturbed(TWIN), control=["control", *DRUGS])
    with pytest.raises(ValueError, match="no perturbation is in both"):
        groups_of(perturbed(TWIN), rename={drug: f"x{drug}" for drug in DRUGS})
    with pytest.raises(ValueError, match="no label is in both"):
        run(TWIN, task="generate", rename={"B": "x", "T": "y"})
