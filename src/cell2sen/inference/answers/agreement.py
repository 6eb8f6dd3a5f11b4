"""Agreement of predicted labels with given ones, whose names may differ: shares of cells, and what a type is called."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cell2sen.data.names.labels import NO_TYPE, normalise_label
from cell2sen.data.names.text import as_texts, some
from cell2sen.inference.annotate import same_labels

#: Rows of the table in a text, at most.
_MAX_ROWS = 25


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """Predicted labels beside given ones."""

    column: str
    """obs column of the given labels."""

    table: pd.DataFrame
    """A row per given label: ``n_cells``, ``same`` (share of its cells whose predicted label means the same, NaN if no
    label does), ``predicted`` (its most frequent predicted label) and ``share`` (that label's share of its cells)."""

    n_compared: int
    """Cells with a predicted label, and a given one that is among the labels to choose from."""

    n_same: int
    """Those whose two labels mean the same."""

    n_without: int
    """Cells without a given or predicted label, ``"unknown"`` among them."""

    @property
    def share(self) -> float:
        """Share of the compared cells whose labels mean the same; NaN without such cells."""
        return self.n_same / self.n_compared if self.n_compared else float("nan")

    @property
    def text(self) -> str:
        """The numbers in words, and a line per given label."""
        lines = []
        if self.n_compared:
            lines.append(
                f"{self.share:.1%} of {self.n_compared:,} cells have the label of obs[{self.column!r}] "
                "(names that mean the same to the model count as one)"
            )
        absent = self.table.index[self.table["same"].isna()].tolist()
        if absent:
            lines.append(f"not among the labels to choose from, and not counted: {some(absent)}")
        if self.n_without:
            lines.append(f"{self.n_without:,} cells without one of the two labels are not counted")
        rows = self.table[:_MAX_ROWS]
        width = max((len(str(name)) for name in rows.index), default=0)
        for name, row in rows.iterrows():
            lines.append(f"  {name!s:<{width}}  {row['n_cells']:>7,}  {row['share']:>4.0%} {row['predicted']}")
        if len(self.table) > len(rows):
            lines.append(f"  … and {len(self.table) - len(rows)} more")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        words = [line for line in self.text.splitlines() if not line.startswith("  ")]
        return f"<p>{html.escape('; '.join(words))}</p>" + self.table[:_MAX_ROWS].to_html(float_format="{:.2f}".format)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        rows = self.table.astype(object).where(self.table.notna(), None)
        share = None if not self.n_compared else round(self.share, 6)
        return {
            "column": self.column,
            "share": share,
            "n_compared": self.n_compared,
            "n_without_label": self.n_without,
            "labels": {str(name): row for name, row in rows.to_dict(orient="index").items()},
        }


def agreement(
    given: pd.Series[Any],
    predicted: pd.Series[Any],
    labels: Sequence[str],
    trained: Sequence[str],
    spellings: Mapping[str, Sequence[str]],
) -> Agreement:
    """Agreement of predicted labels with given ones.

    Parameters
    ----------
    given, predicted
        Label of each cell. Missing ones, and names of cells without a type ("unknown", "doublet"), are not counted.
    labels
        Labels that were chosen from.
    trained, spellings
        Labels of the model, and their other spellings and broader names, which count as the same
        (:func:`cell2sen.inference.annotate.same_labels`).

    Raises
    ------
    ValueError
        No cell has a given label.
    """
    texts = [_named(values) for values in (given, predicted)]
    if not any(text is not None for text in texts[0]):
        raise ValueError(f"no cell has a label in obs[{given.name!r}] to compare with")
    frame = pd.DataFrame({"given": texts[0], "predicted": texts[1]}, dtype=object)
    both = frame.dropna()
    counterparts = {
        name: same_labels(name, labels, trained, spellings) for name in sorted(set(frame["given"].dropna()))
    }
    rows = {}
    for name, cells in both.groupby("given"):
        counts = cells["predicted"].value_counts()
        same = float(counts[counts.index.isin(counterparts[str(name)])].sum())
        rows[str(name)] = {
            "n_cells": len(cells),
            "same": same / len(cells) if counterparts[str(name)] else np.nan,
            "predicted": str(counts.index[0]),
            "share": float(counts.iloc[0]) / len(cells),
        }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["n_cells", "same", "predicted", "share"])
    table = table.astype({"n_cells": np.int64}).sort_values("n_cells", ascending=False, kind="stable")
    counted = table[table["same"].notna()]
    return Agreement(
        column=str(given.name),
        table=table,
        n_compared=int(counted["n_cells"].sum()),
        n_same=round(float((counted["same"].astype(np.float64) * counted["n_cells"]).sum())),
        n_without=len(frame) - len(both),
    )


def _named(values: pd.Series[Any]) -> list[str | None]:
    """Label of each cell; ``None`` for those without one."""
    texts = as_texts(values)
    return [None if text is None or normalise_label(text) in NO_TYPE else text for text in texts]
