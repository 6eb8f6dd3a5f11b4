"""Scales of an evaluation: scores do not depend on the scale of either side, and assumptions give a warning."""

from __future__ import annotations

import logging
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from experiment import REAL, TWIN, log_cp10k, perturbed, run
from totals import to_total

from cell2sen.data.reader import open_reader
from cell2sen.data.scale.units import LN_CP10K, NAMED, Scale
from cell2sen.evaluation.input_scales import scale_of_cells, usable_layers
from cell2sen.evaluation.inputs import read

METRICS = {"metrics": ["pearson_delta", "rmse_delta"]}


def on_scale(cells: ad.AnnData, function: Any) -> ad.AnnData:
    changed = cells.copy()
    changed.X = sp.csr_matrix(function(cells.X.toarray().astype(np.float64)).astype(np.float32))
    return changed


SCALES = {
    "ln of counts, as SCTransform writes": np.log1p,
    "log2 of counts": lambda c: np.log2(1 + c),
    "ln of CPM": lambda c: np.log1p(to_total(c, 1e6)),
    "log10 of CP10k": lambda c: np.log10(1 + to_total(c, 1e4)),
    "CP10k": lambda c: to_total(c, 1e4),
    "square root": np.sqrt,
    "arcsinh": lambda c: np.arcsinh(to_total(c, 1e4) / 5),
    "fractional counts": lambda c: c + 1e-9,
}


@pytest.mark.parametrize("name", SCALES)
def test_scores_are_those_of_the_counts(name: str) -> None:
    expected = run(perturbed(TWIN), **METRICS).table["prediction"].astype(float)
    for sides in ({"predicted": SCALES[name]}, {"real": SCALES[name]}):
        predicted = on_scale(perturbed(TWIN), sides.get("predicted", lambda c: c))
        real = on_scale(REAL, sides.get("real", lambda c: c))
        found = run(predicted, real, **METRICS).table["prediction"].astype(float)
        np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), atol=1e-4)


def test_rows_of_unnormalised_logarithms_equal_numpy() -> None:
    cells = read(on_scale(REAL, np.log1p), "real")
    np.testing.assert_allclose(cells.rows(np.arange(20)).toarray(), log_cp10k(REAL)[:20], rtol=1e-4, atol=1e-5)


def test_a_given_scale_that_the_values_contradict_gives_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="cell2sen")
    reader = open_reader(on_scale(REAL, lambda c: np.log1p(to_total(c, 1e4))))
    assert scale_of_cells(reader, "real", "log1p", {}) == LN_CP10K
    assert not caplog.records
    assert scale_of_cells(reader, "real", "log2", {}) == NAMED["log2"]
    assert "real_scale='log2' was given, but the real cells look like log base e of 1 + x, total 1e+04" in caplog.text
    with pytest.raises(ValueError, match=r"scale must be one of auto, counts, .*; found 'lin'"):
        scale_of_cells(reader, "predicted", "lin", {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="counts would be impossible"):
        scale_of_cells(open_reader(on_scale(REAL, lambda c: to_total(c, 1e6))), "real", "log1p", {})


def test_assumed_scales_give_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="cell2sen")
    regressed = on_scale(REAL, lambda c: np.log1p(to_total(c, 1e4)) - 0.01)
    assert read(regressed, "predicted").scale == Scale(kind="log", base="e", total=1e4, certain=False)
    assert "the scale of the predicted cells is not certain" in caplog.text
    assert "slightly negative, down to -0.01" in caplog.text
    assert "pass scale= (counts, cp10k, " in caplog.text


def test_cells_on_another_scale_than_the_others_are_refused() -> None:
    mixed = REAL.copy()
    mixed.X = mixed.X.toarray()
    mixed.X[50:60] = log_cp10k(REAL)[50:60]
    with pytest.raises(ValueError, match=r"10 of 288 cells in X are on another scale .* 'cell50'"):
        read(mixed, "real")


class TestLayersOfOtherTools:
    def prediction(self, **layers: Any) -> ad.AnnData:
        cells = on_scale(perturbed(TWIN), lambda c: np.log1p(to_total(c, 1e4)))
        before = log_cp10k(REAL)[: cells.n_obs]
        cells.layers["control"] = sp.csr_matrix(layers.get("control", before))
        cells.layers["delta"] = sp.csr_matrix(layers.get("delta", cells.X.toarray() - before))
        return cells

    def layers(self, cells: ad.AnnData, scale: Scale = LN_CP10K) -> dict[str, Scale]:
        return usable_layers(cells, open_reader(cells), scale, {})

    def test_differences_in_ln_cp10k_are_used(self) -> None:
        assert set(self.layers(self.prediction())) == {"control", "delta"}

    def test_controls_are_converted(self) -> None:
        counts = REAL.X.toarray()[: perturbed(TWIN).n_obs]
        cells = read(self.prediction(control=counts), "predicted")
        np.testing.assert_allclose(
            cells.rows(np.arange(9), "control").toarray(), log_cp10k(REAL)[:9], rtol=1e-4, atol=1e-5
        )

    def test_other_differences_are_left_out(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, logger="cell2sen")
        right = self.prediction()
        factor = {"delta": right.layers["delta"].toarray() / np.log(2)}  # in log2
        assert set(self.layers(self.prediction(**factor))) == {"control"}
        assert "layers['delta'] of the predicted cells is not used" in caplog.text
        assert set(self.layers(right, NAMED["counts"])) == {"control"}
        del right.layers["control"]
        assert set(self.layers(right)) == {"delta"}
        right.layers["delta"] = sp.csr_matrix(right.layers["delta"].toarray() + 3)
        assert set(self.layers(right)) == set()

    def test_scores_do_not_use_a_difference_of_counts(self) -> None:
        cells = perturbed(TWIN)
        expected = run(cells, **METRICS).table["prediction"].astype(float)
        cells.layers["delta"] = sp.csr_matrix(cells.X.toarray() - 1)
        found = run(cells, **METRICS).table["prediction"].astype(float)
        np.testing.assert_array_equal(found.to_numpy(), expected.to_numpy())


def test_a_record_is_not_believed_against_the_values(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="cell2sen")
    assert scale_of_cells(open_reader(REAL), "predicted", "auto", {"perturb": {}}).kind == "counts"
    assert "uns records ln(1 + CP10k) for the predicted cells, but there are values up to" in caplog.text
    predicted = on_scale(REAL, lambda c: np.log1p(to_total(c, 1e4)) * 0.9)
    assert scale_of_cells(open_reader(predicted), "predicted", "auto", {"generate": {}}) == LN_CP10K


def test_recorded_counts_that_look_like_logarithms_are_counts() -> None:
    """Predicted counts of few counts a cell, beside the layers of expression, as of ``output="counts"``."""
    cells = ad.AnnData(np.random.default_rng(0).poisson(0.4, (40, 60)).astype(np.float32))
    recorded = {"perturb": {"unit": "counts"}}
    assert scale_of_cells(open_reader(cells), "predicted", "auto", recorded).kind == "counts"
    assert scale_of_cells(open_reader(cells), "predicted", "auto", {"perturb": {"unit": "x"}}) == LN_CP10K
    cells.X = np.log1p(cells.X)
    assert scale_of_cells(open_reader(cells), "predicted", "auto", recorded) == LN_CP10K
