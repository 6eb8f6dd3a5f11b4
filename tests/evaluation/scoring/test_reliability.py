"""Scores by reliability: classes by the Spearman-Brown reliability of halves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cell2sen.evaluation.scoring.reliability import by_reliability


def test_groups_are_classed_by_their_reliability() -> None:
    halves = {"a": 0.9, "b": 0.7, "c": 0.4, "d": 0.1, "e": -0.2}
    own = {"a": 0.8, "b": 0.6, "c": 0.5, "d": 0.0, "e": 0.1}
    rows = [("m", "all", "prediction", 0.4), ("other", "a", "prediction", -1.0)]
    for group, half in halves.items():
        rows += [("m", group, "ceiling", half), ("m", group, "prediction", own[group]), ("m", group, "simple", 0.3)]
    table = by_reliability(pd.DataFrame(rows, columns=["metric", "group", "method", "value"]), "m", "simple")
    assert table["n_groups"].to_dict() == {"reliable": 2, "fair": 1, "noisy": 2}  # 2·0.7/1.7 = 0.82, 0.8/1.4 = 0.57
    assert table.loc["reliable", "prediction"] == pytest.approx(0.7)
    assert table.loc["fair", "prediction_share"] == pytest.approx(0.5 / np.sqrt(0.8 / 1.4))
    assert table.loc["noisy", "best_baseline"] == pytest.approx(0.3)
