"""Names of controls and of combinations of perturbations."""

from __future__ import annotations

import numpy as np
import pytest

from cell2sen.data.names.perturbations import (
    combination,
    combined_in_file,
    control_names,
    is_usual_control,
    loosely_equal,
    named_controls,
    no_controls,
    same_combinations,
    usual_controls,
)


@pytest.mark.parametrize(
    "name",
    [
        "control", "Control", "ctrl", "CTRL", "DMSO", "dmso", "non-targeting", "Non-Targeting", "non_targeting", "NT",
        "NT_1", "scrambled", "vehicle", "unperturbed", "mock", "PBS", "untreated", "NegCtrl0", "NegCtrl0_NegCtrl0",
        "ctrl+ctrl",        "non-targeting_00023", "control 2", "Vehicle control", "NTC", "none",
        "NO-TARGET", "no_target_3", "NT-40", "NTg1", "sgNTC", "siControl", "shSCR", "sgNT-1", "dmso_0.0", "DMSO 0.1%",
        "Vehicle (DMSO)", "control siRNA", "non-targeting_non-targeting_00023", "Non-Targeting sgRNA 12",
        "NegCtrl10__NegCtrl0",
        "NonTargeting_Human_0001", "ONE_INTERGENIC_SITE_12", "NO_SITE_3", "AAVS1", "AAVS1-2", "empty vector",
        "no guide", "WT",
        "PBS 24h", "non_targeting|non_targeting", "safe-targeting", "INTERGENIC216151", "mock-infected",
    ],
)  # fmt: skip
def test_usual_names_of_controls(name: str) -> None:
    assert is_usual_control(name)


@pytest.mark.parametrize(
    "name",
    [
        "IFN-beta",
        "CTRL-A4",
        "NTRK1",
        "PBSX",
        "CEBPA+ctrl",
        "KLF1_NegCtrl0",
        "scrambledegg",
        "1",
        "+",
        "mocking",
        "WT1",
        "NT5E",
        "WTAP",
        "SCRG1",
        "sgNTRK1",
        "EGFR WT",
        "DMSO+IFN",
        "10uM",
        "0",
        "siRNA",
        "TNF 10 ng/ml",
        "GFP",
        "g1",
    ],
)
def test_names_of_perturbations_are_not_those_of_controls(name: str) -> None:
    assert not is_usual_control(name)


def test_usual_controls_of_a_column() -> None:
    assert usual_controls(["IFN", "ctrl", None, "ctrl", "DMSO"]) == ["ctrl", "DMSO"]


@pytest.mark.parametrize("missing", [None, "", "nan", "None", "NA", np.nan, " "])
def test_missing_values_can_be_controls(missing: object) -> None:
    controls = control_names(missing)  # type: ignore[arg-type]
    assert controls == [None]
    assert named_controls(["IFN", None], controls) == ["IFN", "control"]


def test_missing_values_beside_named_controls() -> None:
    assert control_names(["ctrl", None, ""]) == ["ctrl", None]
    assert named_controls(["IFN", None, "ctrl"], ["ctrl", None]) == ["IFN", "ctrl", "ctrl"]
    assert named_controls(["IFN", None], ["ctrl"]) == ["IFN", None]


def test_the_error_without_controls_names_missing_values_and_usual_names() -> None:
    text = no_controls("drug", "the real cells", ["DMSO", None, None, "IFN"], ["control"])
    assert "obs['drug'] of the real cells is never ['control']" in text
    assert "2 of 4 cells have no value (missing, NaN or blank)" in text
    assert "control=None (--control '')" in text
    assert "'DMSO' may be controls: control='DMSO'" in text
    assert "available: ['DMSO', 'IFN']" in text
    guides = [*(f"NT-{number}" for number in range(1, 4)), "TP53"]
    assert "control=['NT-1', 'NT-2', 'NT-3'] (--control 'NT-1' --control 'NT-2' --control 'NT-3')" in no_controls(
        "guide", "the cells", guides, ["control"]
    )
    assert "no value" not in no_controls("drug", "the real cells", ["IFN"], ["control"])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("B+A", ("A", "B")),
        ("A+B", ("A", "B")),
        ("B + A", ("A", "B")),
        ("C+B+A", ("A", "B", "C")),
        ("A+ctrl", ("A",)),
        ("ctrl+A", ("A",)),
        ("ctrl+ctrl", ("ctrl+ctrl",)),
        ("A", ("A",)),
        ("Ca2+", ("Ca2+",)),
        ("B_A", ("A", "B")),  # both occur alone
        ("B;A", ("A", "B")),
        ("B & A", ("A", "B")),
        ("A_ctrl", ("A", "ctrl")),  # not A: it may be its control
        ("ctrl_A", ("A", "ctrl")),
        ("TGF_beta", ("TGF_beta",)),  # "TGF" and "beta" do not
        ("A_x", ("A_x",)),
    ],
)
def test_parts_of_combinations(name: str, parts: tuple[str, ...]) -> None:
    assert combination(name, {"A", "B"}) == parts


def test_combinations_take_the_name_of_the_other_side() -> None:
    assert same_combinations({"B+A": 3, "IL6": 2}, ["A+B", "IL6"]) == {"B+A": "A+B"}
    assert same_combinations({"A+B": 3}, ["A+B"]) == {}
    assert same_combinations({"A": 3}, ["A+ctrl"]) == {"A": "A+ctrl"}
    assert same_combinations({"B_A": 3}, ["A_B", "A", "B"]) == {"B_A": "A_B"}
    assert same_combinations({"B_A": 3}, ["A_B"]) == {}
    assert same_combinations({"B_A": 3}, ["A_B", "A_ctrl", "ctrl_B"]) == {"B_A": "A_B"}
    assert same_combinations({"IFN_ctrl": 3}, ["IFN"]) == {}
    assert same_combinations({"ctrl_IFN": 3}, ["IFN", "IFN_ctrl"]) == {"ctrl_IFN": "IFN_ctrl"}


def test_combinations_in_one_file_take_the_most_frequent_name() -> None:
    values = ["A+B", "B+A", "B+A", None, "ctrl", "ctrl+A", "A+ctrl", "ctrl+A"]
    assert combined_in_file(values, {"ctrl"}) == {"A+B": "B+A", "A+ctrl": "ctrl+A"}


def test_names_that_may_be_the_same() -> None:
    assert loosely_equal(["B_A", "TNF", "IL6|IL2"], ["A_B", "IL2;IL6", "x"]) == [("B_A", "A_B"), ("IL6|IL2", "IL2;IL6")]
    assert loosely_equal(["IFN-Beta"], ["ifn beta"]) == [("IFN-Beta", "ifn beta")]
