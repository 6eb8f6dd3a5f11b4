"""Groups, halves, exchange partners and groups to learn from."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest
from experiment import DRUGS, REAL, TWIN, TYPES, N, groups_of, means, own_prediction, perturbed, run

from cell2sen.evaluation.metrics import Missing
from cell2sen.evaluation.scoring.groups import Recent, derangement, notes_on, share_of_true_change

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


def with_drugs(adata: ad.AnnData, names: dict[str, Any]) -> ad.AnnData:
    adata = adata.copy()
    adata.obs["drug"] = [names.get(name, name) for name in adata.obs["drug"]]
    return adata


@pytest.mark.parametrize(
    ("predicted", "real"),
    [("B+A", "A+B"), ("B + A", "A+B"), ("A+ctrl", "A"), ("ctrl+A", "A+ctrl"), ("beta_gamma", "gamma_beta")],
)
def test_combinations_in_another_order_are_scored(predicted: str, real: str) -> None:
    groups = groups_of(with_drugs(perturbed(TWIN), {"alpha": predicted}), with_drugs(REAL, {"alpha": real}))
    assert sorted(groups.keys) == sorted((name.replace("alpha", real), kind) for name, kind in KEYS)
    [note] = notes_on(groups, None)
    assert f"in the predicted cells: {predicted!r} is {real!r}" in note


def test_both_orders_in_one_file_are_one_group() -> None:
    real = REAL.copy()
    alpha = np.flatnonzero(real.obs["drug"] == "alpha")
    names = real.obs["drug"].to_numpy().astype(object)
    names[alpha[::2]], names[alpha[1::2]] = "A+B", "B+A"
    real.obs["drug"] = names
    groups = groups_of(with_drugs(perturbed(TWIN), {"alpha": "B+A"}), real)
    assert sorted(groups.keys) == sorted(("A+B" if name == "alpha" else name, kind) for name, kind in KEYS)
    assert {len(groups.real.groups["A+B", kind]) for kind in TYPES} == {N}


def test_names_that_may_be_the_same_are_named() -> None:
    groups = groups_of(with_drugs(perturbed(TWIN), {"alpha": "x_y"}), with_drugs(REAL, {"alpha": "Y_X"}))
    assert "'x_y' (predicted) and 'Y_X' (real)" in "".join(notes_on(groups, None))


@pytest.mark.parametrize(
    ("value", "control"), [(None, None), (np.nan, ""), ("nan", "nan"), ("NA", None), (" ", ["", "DMSO"])]
)
def test_controls_without_a_value(value: Any, control: Any) -> None:
    real = with_drugs(REAL, {"control": value})
    groups = groups_of(perturbed(TWIN), real, control=control)
    expected = groups_of(perturbed(TWIN))
    assert groups.keys == KEYS
    for context, rows in expected.real.controls.items():
        np.testing.assert_array_equal(groups.real.controls[context], rows)
    with pytest.raises(ValueError, match=r"72 of 288 cells have no value \(missing, NaN or blank\).*control=None"):
        groups_of(perturbed(TWIN), real)


def test_usual_names_of_controls_are_suggested() -> None:
    with pytest.raises(ValueError, match="'DMSO' may be controls: control='DMSO'"):
        groups_of(perturbed(TWIN), with_drugs(REAL, {"control": "DMSO"}))


def test_white_space_bytes_and_floats_do_not_divide_groups() -> None:
    predicted = with_drugs(perturbed(TWIN), {"alpha": "alpha ", "beta": b"beta"})
    predicted.obs["cell_type"] = predicted.obs["cell_type"].map({"B": 1.0, "T": 2.0})
    real = with_drugs(REAL, {})
    real.obs["cell_type"] = real.obs["cell_type"].map({"B": "1", "T": 2}).astype(object)
    assert groups_of(predicted, real).keys == [(name, "1" if kind == "B" else "2") for name, kind in KEYS]


def test_cells_without_a_value_are_counted() -> None:
    real, predicted = REAL.copy(), perturbed(TWIN)
    real.obs["cell_type"] = ["NA", *real.obs["cell_type"].iloc[1:]]
    predicted.obs["drug"] = [None, None, *predicted.obs["drug"].iloc[2:]]
    assert notes_on(groups_of(predicted, real), None) == [
        "1 real cells have no value in obs['cell_type'] and are not scored",
        "2 predicted cells have no value in obs['drug'] and are not scored",
    ]


def test_the_values_used_last_are_kept() -> None:
    recent = Recent(max_bytes=25)
    for name in "abc":
        recent.add(name, name.upper(), 10)
    assert [recent.get(name) for name in "abc"] == [None, "B", "C"]
    recent.get("b")
    recent.add("d", "D", 10)
    assert [recent.get(name) for name in "bcd"] == ["B", None, "D"]
    recent.add("large", "L", 30)
    assert [recent.get(name) for name in ("b", "d", "large")] == [None, None, None]
