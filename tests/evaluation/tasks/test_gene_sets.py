"""Predicted names and lists of gene sets beside baselines from training sets."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cell2sen.data.genes.gene_sets import write_gmt
from cell2sen.evaluation.evaluate import evaluate
from cell2sen.evaluation.leakage import LeakError

TRAIN = {"IL6_SIGNALING": ("A", "B", "C"), "DNA_REPAIR": ("D", "E", "F", "A"), "DNA_LOSS": ("D", "E", "A")}
REAL = {"IL2_SIGNALING": ("A", "B", "G", "H"), "DNA_BREAKS": ("D", "E", "F", "G")}


def test_lists() -> None:
    predicted = {"IL2_SIGNALING": ["A", "G", "X", "Y"], "DNA_BREAKS": "D E F G"}
    evaluation = evaluate(predicted, REAL, task="list_gene_set", train=TRAIN, resamples=50)
    row = evaluation.table.loc["set_overlap"]
    assert row["prediction"] == (2 / 4 + 1) / 2
    assert row["frequent_genes"] == (2 / 4 + 2 / 4) / 2  # A, D, E, B
    assert row["nearest_training_name"] == (2 / 4 + 3 / 4) / 2  # A B C D; D E F A
    assert row["ceiling"] == (2 / 4 + 3 / 4) / 2
    assert row["low"] <= row["prediction"] <= row["high"]
    assert set(evaluation.scores["group"]) == {"all", *REAL}
    assert [check.status for check in evaluation.checks] == ["passed"]


def test_names(tmp_path: Path) -> None:
    write_gmt(tmp_path / "real.gmt", REAL)
    write_gmt(tmp_path / "train.gmt", TRAIN)
    table = pd.DataFrame({"name": ["il2 signaling", "repair"]}, index=pd.Index(list(REAL), name="set"))
    table.to_csv(tmp_path / "named.csv")
    options = {"task": "name_gene_set", "train": tmp_path / "train.gmt", "resamples": 20}
    evaluation = evaluate(tmp_path / "named.csv", tmp_path / "real.gmt", **options)
    pd.testing.assert_frame_equal(evaluation.table, evaluate(table, REAL, **options).table)
    assert evaluation.table.loc["exact_name", "prediction"] == 0.5
    assert evaluation.table.loc["word_f1", "nearest_training_set"] == (2 / 4 + 2 / 4) / 2
    assert evaluation.table.loc["word_f1", "ceiling"] == 0.5
    assert evaluation.to_json()
    pytest.importorskip("jinja2")
    page = evaluation.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Predicted names of gene sets" in page
    assert "2</" in page


def test_without_training_sets_baselines_are_missing_with_a_reason() -> None:
    evaluation = evaluate({"DNA_BREAKS": ["D"]}, REAL, task="list_gene_set", resamples=5)
    reasons = evaluation.scores.query("method == 'frequent_genes'")["reason"]
    assert set(reasons) == {"training sets are not known; pass train="}
    assert evaluation.notes == ("1 of 2 true sets have no prediction and are not scored",)


def test_training_sets_among_the_scored_ones_are_a_leak() -> None:
    same_name = {**TRAIN, "dna breaks": ("X",)}
    same_genes = {**TRAIN, "OTHER": ("G", "F", "E", "D")}
    for train in (same_name, same_genes):
        with pytest.raises(LeakError, match=r"1 of 2 scored sets are among the training sets \(such as \['DNA_BREAKS'"):
            evaluate({name: ["A"] for name in REAL}, REAL, task="list_gene_set", train=train)
        leaked = evaluate({name: ["A"] for name in REAL}, REAL, task="list_gene_set", train=train, leaks="report")
        assert leaked.leaked


def test_inputs_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no gene set is in both files"):
        evaluate({"x": ["A"]}, REAL, task="list_gene_set")
    with pytest.raises(KeyError, match="has no column 'genes'"):
        evaluate(pd.DataFrame({"name": ["a"]}, index=["DNA_BREAKS"]), REAL, task="list_gene_set")
    with pytest.raises(FileNotFoundError, match=r"no file .*no\.csv with predicted gene sets"):
        evaluate(tmp_path / "no.csv", REAL, task="list_gene_set")
