"""Leak checks and their outcomes; failed ones raise."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from experiment import REAL, TWIN, copied_control, own_prediction, perturbed, run

from cell2sen.data.splits import hashes_of_names, sha256_of_names
from cell2sen.evaluation.leakage import LeakError, compared_hashes, fingerprints, hardly_moves, read_names, trained_on


def test_a_copied_control_raises() -> None:
    with pytest.raises(
        LeakError, match=r"leak check failed\. prediction is not a copied control: 100\.0% of 216"
    ) as caught:
        run(copied_control(), leaks="raise")
    assert caught.value.checks[0].status == "failed"


def test_a_prediction_made_from_the_truth_raises() -> None:
    with pytest.raises(LeakError, match="have the name of a cell of the truth"):
        run(own_prediction(REAL[REAL.obs["drug"].isin(["control", "alpha"])]), leaks="raise")


def test_an_own_prediction_that_is_its_control_raises() -> None:
    predicted = own_prediction(REAL[REAL.obs["drug"] == "control"])
    predicted.X = predicted.layers["control"] * 1.001
    with pytest.raises(LeakError, match="unchanged"):
        run(predicted, leaks="raise")


def test_controls_among_the_truth_raise() -> None:
    real = REAL.copy()
    half = np.flatnonzero((real.obs["drug"] == "control").to_numpy())[::2]
    doubled = real[half].copy()
    doubled.obs["drug"] = "alpha"
    doubled.obs_names = [f"again{number}" for number in range(len(half))]
    with pytest.raises(LeakError, match="real cells of the truth have the expression of a control cell"):
        run(perturbed(TWIN), ad.concat([real, doubled]), leaks="raise")


def renamed(adata: ad.AnnData, pattern: str) -> ad.AnnData:
    """The cells under names that count them."""
    adata = adata.copy()
    adata.obs_names = [pattern.format(number) for number in range(adata.n_obs)]
    return adata


def trained_status(predicted: ad.AnnData, real: ad.AnnData, **options: Any) -> str:
    evaluation = run(predicted, real, metrics=["pearson"], **options)
    return {check.name: check.status for check in evaluation.checks}["no test cell was trained on"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_cells_that_were_trained_on_raise(tmp_path: Path, encoding: str) -> None:
    real = renamed(REAL, "donor1-{}")
    names = list(perturbed(real).obs_names[:5])
    with pytest.raises(LeakError, match="5 of 216 test cells are among the 6 training cells"):
        run(perturbed(TWIN), real, leaks="raise", train_names=[*names, "another"])
    (tmp_path / "names.txt").write_text("\r\n".join(names), encoding=encoding)
    assert run(perturbed(TWIN), real, train_names=tmp_path / "names.txt", metrics=["pearson"]).leaked
    assert trained_status(perturbed(TWIN), real, leaks="raise", train_names=["another"]) == "passed"


@pytest.mark.parametrize("pattern", ["{}", "cell_{}", "Cell{}"])
def test_names_that_count_cells_prove_no_leak(pattern: str) -> None:
    real, others, predicted = (renamed(cells, pattern) for cells in (REAL, TWIN, perturbed(TWIN)))
    assert trained_status(predicted, real, train_names=list(others.obs_names)) == "not checked"
    assert trained_status(predicted, real, train=others, leaks="raise") == "passed"  # other cells, equal names
    with pytest.raises(LeakError, match="216 of 216 test cells have the expression of one of 288 training cells"):
        run(predicted, real, train=REAL[::-1], leaks="raise")


def barcodes(n: int, seed: int) -> list[str]:
    """Different barcodes of a list of 10x's length, with the number of a library."""
    generator = np.random.default_rng(seed)
    codes = generator.choice(737_280, n, replace=False)
    return ["".join("ACGT"[code // 4**place % 4] for place in range(16)) + "-1" for code in codes]


def test_a_few_equal_barcodes_of_two_experiments_are_no_leak() -> None:
    real, others = REAL.copy(), TWIN.copy()
    names = barcodes(REAL.n_obs, 0)
    real.obs_names = names
    others.obs_names = [names[-1], *barcodes(REAL.n_obs - 1, 1)]
    predicted = perturbed(TWIN)
    predicted.obs_names = barcodes(predicted.n_obs, 2)
    many = [names[-1], *barcodes(5000, 3)]  # 1.5 equal names are expected
    evaluation = run(predicted, real, metrics=["pearson"], leaks="raise", train_names=many)
    check = {check.name: check for check in evaluation.checks}["no test cell was trained on"]
    assert check.status == "warning"
    assert "about 1 equal barcodes are expected by chance" in check.detail
    with pytest.raises(LeakError, match="216 of 216 test cells are among"):
        run(predicted, real, leaks="raise", train_names=[*names, *many])
    assert trained_status(predicted, real, leaks="raise", train=others) == "passed"  # of another expression
    others.X = sp.vstack([real.X[-1:], others.X[1:]]).tocsr()
    with pytest.raises(LeakError, match="1 of them have the same expression"):
        run(predicted, real, leaks="raise", train=others)
    with pytest.raises(LeakError, match="3 of 216 test cells are among the 73 training cells"):  # too many for chance
        run(predicted, real, leaks="raise", train_names=[*names[-3:], *many[-70:]])


@pytest.mark.parametrize("pattern", ["{}", "cell_{}"])
def test_names_that_count_cells_do_not_prove_that_a_prediction_was_made_from_the_truth(pattern: str) -> None:
    real = renamed(REAL, pattern)
    fair = renamed(own_prediction(REAL[REAL.obs["drug"] == "control"]), pattern)
    fair.obs_names = [pattern.format(36 + number) for number in range(fair.n_obs)]  # names of perturbed cells
    fair.uns["cell2sen"]["perturb"]["readout"] = "expected"
    assert not run(fair, real, metrics=["pearson"]).leaked
    with pytest.raises(LeakError, match="have the name of a cell of the truth"):
        run(own_prediction(real[real.obs["drug"].isin(["control", "alpha"])]), real, leaks="raise")


def test_a_models_record_of_its_split_is_read(tmp_path: Path) -> None:
    def status(split: Any) -> str:
        evaluation = run(perturbed(TWIN), split=split, metrics=["pearson"])
        return {check.name: check.status for check in evaluation.checks}["no test cell was trained on"]

    digest = sha256_of_names(REAL.obs_names)
    split = {"real.h5ad": {"n_train": 100, "n_held_out": REAL.n_obs, "sha256_of_held_out": digest}}
    assert status(split) == "passed"
    (tmp_path / "cell2sen.json").write_text(json.dumps({"split": split}))
    assert status(tmp_path / "cell2sen.json") == "passed"
    assert status({"real.h5ad": {"n_train": REAL.n_obs - 8, "n_held_out": 8, "sha256_of_held_out": "x"}}) == "warning"
    assert status({"real.h5ad": {"n_train": 7, "n_held_out": 8, "sha256_of_held_out": "x"}}) == "not checked"


def test_equal_barcodes_under_other_names_are_a_warning() -> None:
    test, train = ([f"ACGTACGT{code}-{suffix}" for code in "ACGT"] for suffix in (1, 2))
    assert trained_on(test, train, None, 4, []).status == "warning"
    assert trained_on(test, [f"TTTTACGT{code}-2" for code in "ACGT"], None, 4, []).status == "passed"


def test_names_are_read_from_files_and_objects(tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text('{"a.h5ad": ["x"], "b.h5ad": ["y"]}')
    assert read_names(tmp_path / "names.json") == ["x", "y"]
    REAL[:2].copy().write_h5ad(tmp_path / "cells.h5ad")
    assert read_names(tmp_path / "cells.h5ad") == read_names(REAL[:2]) == ["cell0", "cell1"]
    assert read_names(None) is None
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_names(tmp_path / "nothing.txt")


@pytest.mark.parametrize(("ratio", "status"), [(0.05, "warning"), (0.5, "passed"), (float("nan"), "not checked")])
def test_predictions_that_hardly_move_are_a_warning(ratio: float, status: str) -> None:
    assert hardly_moves(ratio).status == status


def test_equal_rows_have_equal_fingerprints() -> None:
    matrix = sp.csr_matrix(np.array([[1.0, 0, 2], [1.0001, 0, 2], [2, 0, 1], [0, 0, 0]]))
    hashes = fingerprints(matrix)
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[3] == 0


def test_hashes_of_training_names() -> None:
    trained = hashes_of_names([f"donor1_{number}" for number in range(300)])
    assert trained.dtype == np.uint64
    assert (np.diff(trained.astype(object)) > 0).all()
    check = compared_hashes(["donor1_5", "donor1_7", "donor2_5"], trained)
    assert check is not None
    assert check.status == "failed"
    assert "2 of 3 test cells" in check.detail
    assert compared_hashes(["donor2_5", "donor3_1"], trained) is None


def test_hashes_of_bare_barcodes_are_equal_by_chance() -> None:
    codes = ["".join(code) + "-1" for code in itertools.product("ACGT", repeat=8)]
    few = [*codes[:3], *codes[-1000:]]
    trained = hashes_of_names(codes[:20000])
    assert compared_hashes(few, trained) is None  # 306 of 1003 are expected
    assert compared_hashes(codes[10:1010], trained) is not None
