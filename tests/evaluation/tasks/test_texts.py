"""Scores of texts: one per sample, nearest of several references, baselines, ceiling, genes that are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from cells import GENES, cells

import cell2sen as c2s

pytest.importorskip("torchmetrics")

N = 80
TEXTS = ["T cells of blood express CD4.", "B cells with MS4A1", "Monocytes: LYZ and S100A8, from bone marrow"]


def real() -> anndata.AnnData:
    """Cells of three kinds, each with markers and two references."""
    adata = cells(N)
    kind = np.arange(N) % 3
    counts = adata.X.toarray()
    for number in range(3):
        counts[kind == number, 4 * number : 4 * number + 4] += 40
    counts[:, GENES.index("S100A8")] = 0
    counts[:, GENES.index("LYZ")] = 2
    adata.X = counts
    adata.obs["text"] = [TEXTS[number] for number in kind]
    adata.obs["other"] = [None if number else "A second reference" for number in kind]
    return adata


def predicted(texts: list[str | None]) -> anndata.AnnData:
    """Texts on samples of two cells: cells 0 and 3, 1 and 4, 2 and 5, 6 and 9, …"""
    adata = real()
    answers = np.full(N, None, dtype=object)
    samples = np.full(N, None, dtype=object)
    for number, text in enumerate(texts):
        first = number % 3 + 6 * (number // 3)
        answers[[first, first + 3]] = text
        samples[[first, first + 3]] = f"c{first}"
    adata.obs["cell2sen_answer"] = pd.Categorical(answers)
    adata.obs["cell2sen_answer_sample"] = pd.Categorical(samples)
    adata.uns["cell2sen"] = {"ask": {"key": "cell2sen_answer", "model": {"name": "m"}}}
    return adata


def score(texts: list[str | None], **options: Any) -> Any:
    settings: Any = {"label": "text", "resamples": 20, "leaks": "report", **options}
    return c2s.evaluate(predicted(texts), real(), **settings)


def test_right_texts_are_perfect_and_every_sample_counts_once() -> None:
    scored = score(TEXTS * 3)
    assert scored.task == "text"
    table = scored.table
    assert table.loc["chrf", "prediction"] == pytest.approx(1)
    assert scored.settings["cells"] == 9
    assert scored.settings["model"] == {"name": "m"}
    assert table.loc["chrf", "shuffled_answers"] < 0.9
    assert table.loc["chrf", "majority_answer"] < 0.9
    assert table.loc["chrf", "ceiling"] == pytest.approx(1)  # the kinds have markers
    assert np.isnan(table.loc["chrf", "nearest_training_answer"])
    assert score(TEXTS * 3, train=real()).table.loc["chrf", "nearest_training_answer"] == pytest.approx(1)


def test_the_nearest_of_several_references() -> None:
    texts = ["A second reference", *TEXTS[1:]]
    alone, both = score(texts * 2), score(texts * 2, label=["text", "other"])
    assert both.table.loc["chrf", "prediction"] == pytest.approx(1)
    assert alone.table.loc["chrf", "prediction"] < 0.9


def test_genes_that_answers_name() -> None:
    """LYZ is expressed by all cells and S100A8 by none; IFNG is not in the data."""
    scored = score(["LYZ and S100A8", "LYZ, IFNG", "no gene"] * 2)
    assert scored.table.loc["grounded_genes", "prediction"] == pytest.approx((0.5 + 1) / 2)
    pieces = scored.details["texts"][0]["pieces"]
    assert pieces == [("LYZ", "present"), (" and ", ""), ("S100A8", "absent")]
    assert ("IFNG", "unmeasured") in scored.details["texts"][1]["pieces"]


def test_report_and_table(tmp_path: Path) -> None:
    scored = score(["LYZ and S100A8", *TEXTS[1:]] * 2)
    page = scored.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<span class="top">LYZ</span>' in page
    assert '<span class="unknown">S100A8</span>' in page
    assert "Reference: T cells of blood express CD4." in page
    assert "Predicted texts on 6 samples" in page
    assert "chrf" in scored.to_json()


def test_samples_without_text_or_reference() -> None:
    adata = real()
    adata.obs.loc["c0", "text"] = None
    adata.obs.loc["c3", "text"] = None
    with pytest.raises(ValueError, match="the same column 'text'"):
        c2s.evaluate(adata, adata, task="text", label="text", predicted_label="text", leaks="report")
    scored = c2s.evaluate(predicted([*TEXTS]), adata, label="text", resamples=0, leaks="report")
    assert scored.settings["cells"] == 2
    assert "1 of 3 samples have no reference" in scored.notes[0]
    with pytest.raises(ValueError, match="no sample has both"):
        c2s.evaluate(predicted([None]), real(), label="text", leaks="report")
