"""JSON and CSV of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from experiment import N

from cell2sen.evaluation.result import Evaluation

pytestmark = pytest.mark.slow


def test_json_and_csv_hold_everything(answers: dict[str, Evaluation], tmp_path: Path) -> None:
    copied = answers["copied"]
    stored = json.loads(copied.to_json(tmp_path / "scores.json"))
    assert stored == json.loads((tmp_path / "scores.json").read_text())
    assert stored["leaked"] is True
    assert stored["settings"]["arguments"]["control"] == "control"
    assert stored["settings"]["controls"] == {"B": N, "T": N}
    rows = {row["metric"]: row for row in stored["table"]}
    assert rows["pearson_delta"]["prediction"] is None
    assert rows["pearson_delta"]["reason"]
    assert len(stored["scores"]) == len(copied.scores)
    page = copied._repr_html_()
    assert page.startswith("<p><strong>LEAK: ")
    assert page.count("<tr") == 2 + len(copied.table), "names of columns, name of the index, a row per metric"
    copied.to_csv(tmp_path / "scores.csv")
    again = pd.read_csv(tmp_path / "scores.csv", keep_default_na=False, na_values=[""])
    np.testing.assert_allclose(again["value"], copied.scores["value"])
    assert "LEAK: prediction is not a copied control" in str(copied)
    assert stored["settings"]["methods"]["no_change"] == "the control cells of the same context, unchanged"
    assert {"metric", "method", "group"} <= set(stored["scores"][0])
