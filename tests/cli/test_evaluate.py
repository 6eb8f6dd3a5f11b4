"""`cell2sen evaluate` on files, with the numbers that Python gives."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from command import Run

from cell2sen.evaluation.cell_eval import cell_eval
from cell2sen.evaluation.evaluate import evaluate


def cells(seed: int, drugs: tuple[str, ...], column: str = "drug") -> ad.AnnData:
    rng = np.random.default_rng(seed)
    obs = [(drug, kind) for drug in drugs for kind in ("B", "T") for _ in range(24)]
    gain = {"DMSO": 1.0, "vehicle": 1.0, "a": np.where(np.arange(40) < 10, 3.0, 1.0)}
    gain |= {"b": np.where(np.arange(40) > 30, 3.0, 1.0), "B": np.where(np.arange(40) > 30, 3.0, 1.0)}
    rows = np.array([rng.poisson(3 * gain[drug] * np.ones(40)) for drug, _ in obs], dtype=np.float32)
    table = pd.DataFrame(obs, columns=[column, "cell_type"], index=[f"s{seed}c{number}" for number in range(len(obs))])
    return ad.AnnData(sp.csr_matrix(rows), obs=table, var=pd.DataFrame(index=[f"G{number}" for number in range(40)]))


@pytest.fixture
def score(run: Run, tmp_path: Path) -> Run:
    """`cell2sen evaluate` beside two files."""
    cells(1, ("a", "B"), "condition").write_h5ad(tmp_path / "predicted.h5ad")
    cells(0, ("DMSO", "vehicle", "a", "b")).write_h5ad(tmp_path / "real.h5ad")
    return lambda *arguments: run("evaluate", *arguments, "--quiet")


NAMES = (
    "predicted.h5ad", "real.h5ad", "--perturbation", "drug", "--predicted-perturbation", "condition",
    "--control", "DMSO", "--control", "vehicle", "--context", "cell_type", "--rename", "B=b",
)  # fmt: skip
OPTIONS: dict[str, Any] = {
    "perturbation": "drug", "predicted_perturbation": "condition", "control": ["DMSO", "vehicle"],
    "context": ["cell_type"], "rename": {"B": "b"},
}  # fmt: skip


@pytest.mark.slow
def test_options_are_those_of_python(score: Run) -> None:
    code, out, err = score(*NAMES, "--resamples", "5", "--seed", "3", "--table", "scores.csv", "--json")
    assert code == 0, err
    result = json.loads(out)
    expected = evaluate("predicted.h5ad", "real.h5ad", resamples=5, seed=3, **OPTIONS)
    assert result == json.loads(expected.to_json())
    assert result["settings"]["groups"] == ["a | B", "a | T", "b | B", "b | T"]
    assert sum(result["settings"]["controls"].values()) == 96
    pd.testing.assert_frame_equal(
        pd.read_csv("scores.csv", keep_default_na=False, na_values=[""]).drop(columns="reason"),
        expected.scores.drop(columns="reason"),
    )


@pytest.mark.slow
def test_files_and_the_shown_table(score: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "umap", None)  # compiles for a minute
    some = ("--resamples", "0", "--metric", "pearson_delta", "--metric", "e_distance")
    code, out, err = score(*NAMES, *some, "--table", "scores.json", "--report", "report.html")
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["pearson_delta", "e_distance"]
    assert json.loads(Path("scores.json").read_text())["task"] == "perturb"
    assert "</html>" in Path("report.html").read_text()


def test_labels_of_another_tool(score: Run) -> None:
    adata = cells(0, ("DMSO",))
    adata.obs["guess"] = adata.obs["cell_type"].map({"B": "B lymphocyte", "T": "T"})
    adata.write_h5ad("labelled.h5ad")
    code, out, err = score(
        "labelled.h5ad", "labelled.h5ad", "--predicted-label", "guess", "--rename", "B lymphocyte = B", "--metric",
        "accuracy", "--json", "--resamples", "0",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["table"][0]["prediction"] == 1


def test_scores_of_cell_eval_are_written(score: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class MetricsEvaluator:
        def __init__(self, *_: Any, **options: Any) -> None:
            pass

        def compute(self, **_: Any) -> tuple[Any, None]:
            return SimpleNamespace(to_dict=lambda as_series: {"perturbation": ["a", "b"], "mae": [0.1, 0.2]}), None

    monkeypatch.setitem(sys.modules, "cell_eval", SimpleNamespace(MetricsEvaluator=MetricsEvaluator))
    some = ("--resamples", "0", "--metric", "pearson")
    code, _, err = score(*NAMES, *some, "--cell-eval", "theirs.csv")
    assert code == 0, err
    expected = cell_eval("predicted.h5ad", "real.h5ad", **OPTIONS)
    pd.testing.assert_frame_equal(pd.read_csv("theirs.csv"), expected)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--control", "nothing"), "error: no control cells: obs['drug'] of the real cells is never"),
        (("--rename", "b"), "error: --rename takes PREDICTED=REAL"),
        (("--table", "scores.xlsx"), "error: scores.xlsx must end in .csv or .json"),
        (("--report", "no/report.html"), "error: there is no folder"),
    ],
)
def test_what_a_user_can_mend_is_one_line(score: Run, arguments: tuple[str, ...], text: str) -> None:
    base = ("predicted.h5ad", "real.h5ad", "--perturbation", "drug", "--predicted-perturbation", "condition")
    some = () if "--control" in arguments else ("--control", "DMSO")
    code, _, err = score(*base, *some, "--metric", "pearson", "--resamples", "0", *arguments)
    assert code == 1
    assert text in err
    assert "Traceback" not in err


def test_leaks_fail_unless_they_are_allowed(score: Run) -> None:
    leak = (*NAMES, "--metric", "pearson", "--resamples", "0", "--train-names", "real.h5ad", "--table", "scores.csv")
    code, out, err = score(*leak)
    assert (code, out) == (1, "")
    assert "error: leak check failed. no test cell was trained on: 96 of 96 test cells are among" in err
    assert "--allow-leaks" in err
    assert not Path("scores.csv").exists()
    code, out, _ = score(*leak, "--allow-leaks")
    assert code == 0
    assert out.startswith("LEAK: no test cell was trained on")
