"""Evaluation: scores, verdicts, leak checks and settings, with JSON, CSV and report."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from cell2sen.data.output import complete_file
from cell2sen.evaluation.leakage import Check
from cell2sen.evaluation.settings import Task

#: Columns of the printed table.
_PRINTED = ("prediction", "low", "high", "best_baseline", "best_baseline_value", "verdict", "ceiling", "scaled")


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Scores, with leak checks, settings and notes: all that is needed to read and to repeat them."""

    task: Task
    scores: pd.DataFrame
    """One row per metric, method and group; ``group`` is ``"all"`` for the score over all groups. Columns: metric,
    method (the prediction, a baseline or a ceiling), group, value, low, high (95 % over cells), low_groups, high_groups
    (95 % over perturbations, contexts or units), n_groups, n_predicted, n_real, reason (why there is no value).
    """

    table: pd.DataFrame
    """One row per metric: prediction with intervals, best baseline, verdict, ceiling, all baselines, perfect value."""

    checks: tuple[Check, ...]
    """Outcomes of the leak checks."""

    settings: Mapping[str, Any]
    """Inputs, groups, genes, model, arguments, versions and methods, as plain values."""

    notes: tuple[str, ...] = ()
    """Groups that were not predicted, genes that were not compared, predicted labels that no real cell has."""

    details: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Data of the report's figures: changes of top genes, calibration, cells for a map, sentences."""

    challenge: pd.DataFrame | None = None
    """Scores of cell-eval2 (:func:`cell2sen.cell_eval2`), where they were computed, for the table and the report."""

    @property
    def leaked(self) -> bool:
        """Whether a leak check failed: the scores must then not be used."""
        return any(check.status == "failed" for check in self.checks)

    def to_json(self, path: str | Path | None = None) -> str:
        """JSON of everything but the figures' data, missing values as null; also written to `path` if there is one."""
        content = {
            "task": self.task,
            "leaked": self.leaked,
            "checks": [asdict(check) for check in self.checks],
            "notes": list(self.notes),
            "settings": dict(self.settings),
            "table": _records(self.table.reset_index()),
            "scores": _records(self.scores),
            **({} if self.challenge is None else {"cell_eval2": _records(self.challenge)}),
        }
        text = json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False)
        if path is not None:
            with complete_file(path) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        return text

    def to_csv(self, path: str | Path) -> None:
        """Write :attr:`scores`, one row per metric, method and group."""
        with complete_file(path) as temporary:
            self.scores.to_csv(temporary, index=False)

    def by_reliability(self, metric: str = "pearson_delta") -> pd.DataFrame:
        """Scores of groups that are measured about equally well.

        See :func:`cell2sen.evaluation.scoring.reliability.by_reliability`; `metric` is one of which 1 is perfect.
        """
        from cell2sen.evaluation.scoring.reliability import by_reliability

        return by_reliability(self.scores, metric, str(self.table.loc[metric, "best_baseline"]))

    def report(self, path: str | Path, *, layout: Literal["auto", "umap", "pca"] = "auto") -> Path:
        """Write one self-contained HTML page; see :func:`cell2sen.evaluation.report.page.write`."""
        from cell2sen.evaluation.report import page

        return page.write(self, path, layout=layout)

    @property
    def _printed(self) -> pd.DataFrame:
        return self.table[[name for name in _PRINTED if name in self.table]]

    @property
    def _failed(self) -> list[str]:
        return [f"LEAK: {check.name}: {check.detail}" for check in self.checks if check.status == "failed"]

    def __str__(self) -> str:
        table = self._printed.to_string(float_format=lambda value: f"{value:.3f}")
        text = "".join(f"{line}\n" for line in self._failed) + table
        if self.challenge is not None:
            six = self.challenge[self.challenge["does_not_show"] != ""].set_index(["context", "metric"])
            text += "\n\ncell-eval2\n" + six.to_string(float_format=lambda value: f"{value:.3f}")
        return text

    def _repr_html_(self) -> str:
        lines = "".join(f"<p><strong>{html.escape(line)}</strong></p>" for line in self._failed)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return lines + self._printed.to_html(float_format=lambda value: f"{value:.3f}", na_rep="") + notes


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict(orient="records")]


def _plain(value: Any) -> Any:
    """`value` in types of JSON; numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
