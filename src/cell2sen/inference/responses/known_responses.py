"""Responses measured in training cells: their file, and the change of a cell from those of similar contexts.

A context is a group of training cells (cell type, donor, …) with controls and perturbed cells. The change of a cell is
that of the contexts, weighted by how alike it is to their controls (:mod:`cell2sen.data.similar_contexts`), plus a
share of what the model predicts beyond that (:attr:`KnownResponse.model_share`). A share of 0 is the measured change
alone, and needs no model.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.scale.units import TARGET
from cell2sen.data.similar_contexts import KnownChanges, Transfer, correlations
from cell2sen.model import Model

#: File in the model's directory.
RESPONSE_FILE = "responses.npz"

#: Fewer genes in common with the training cells tell nothing about likeness: all contexts have the weight √n.
MIN_LIKENESS_GENES = 20

_ARRAYS = ("genes", "perturbations", "contexts", "context_of", "n_cells", "controls", "changes", "expected", "rules")

#: Arrays (contexts, genes) that former models do not have.
_OPTIONAL = ("abundances", "log_folds")


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownResponse:
    """Response to one perturbation in the contexts of the training cells, over the genes of a file."""

    contexts: tuple[str, ...]
    """Names of the contexts."""

    known: KnownChanges
    """Measured controls and changes, float64 (contexts, genes)."""

    expected: NDArray[np.float64]
    """Mean change that the model predicts in each context, float64 (contexts, genes)."""

    rule: Transfer
    """How a change follows from those of the contexts."""

    model_share: float = 0.0
    """Share, 0 to 1, of the model's prediction minus the weighted mean of its predictions in the contexts."""

    abundances: NDArray[np.float64] | None = None
    """Mean abundance in the controls, counts per 10,000, float64 (contexts, genes); ``None`` in former models."""

    log_folds: NDArray[np.float64] | None = None
    """ln(perturbed / control) of the abundance without noise, float64 (contexts, genes)."""

    usual_likeness: float = 0.0
    """Correlation with the most similar context that 95 % of the training cells exceed when their own is left out."""

    def weights(self, control: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weight of each context for control cells, float64 (cells, contexts)."""
        if control.shape[1] < MIN_LIKENESS_GENES:
            root = np.sqrt(np.asarray(self.known.n_cells, dtype=np.float64))
            return np.tile(root / root.sum(), (len(control), 1))
        return self.rule.weights(control, self.known)

    def change(self, control: NDArray[np.float64], own: NDArray[np.floating[Any]] | None) -> NDArray[np.float64]:
        """Predicted change of control cells, float64 (cells, genes), ln(1 + CP10k).

        Parameters
        ----------
        control
            Measured expression, float64 (cells, genes).
        own
            Change that the model predicts, of the same shape; ``None`` if :attr:`model_share` is 0.
        """
        weights = self.weights(control)
        change = self.rule.weighted(weights, self.known, control)
        if self.model_share and own is not None:
            change += self.model_share * (own - weights @ self.expected)
        return change

    def unlike(self, control: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Cells that are less like every context than usual, bool (cells,); none if too few genes are in common."""
        if control.shape[1] < MIN_LIKENESS_GENES:
            return np.zeros(len(control), dtype=bool)
        return np.asarray(correlations(control, self.known.controls).max(axis=1) < self.usual_likeness)

    def of_genes(self, columns: NDArray[np.int64]) -> KnownResponse:
        """The same over some genes."""
        known = self.known
        return KnownResponse(
            contexts=self.contexts,
            known=KnownChanges(
                controls=known.controls[:, columns], changes=known.changes[:, columns], n_cells=known.n_cells
            ),
            expected=self.expected[:, columns],
            rule=self.rule,
            model_share=self.model_share,
            abundances=None if self.abundances is None else self.abundances[:, columns],
            log_folds=None if self.log_folds is None else self.log_folds[:, columns],
            usual_likeness=self.usual_likeness,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownResponses:
    """Measured responses of a model's training cells."""

    genes: tuple[str, ...] = ()
    """Symbol of each column."""

    responses: Mapping[str, KnownResponse]
    """Perturbation → its response over `genes`."""

    def shared_genes(self, symbols: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Genes in common: their columns here and their places among `symbols`, int64 (shared,) both."""
        column_of = {gene: column for column, gene in enumerate(self.genes)}
        pairs = [(column_of[symbol], place) for place, symbol in enumerate(symbols) if symbol in column_of]
        columns = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return columns[:, 0], columns[:, 1]

    def write(self, file: Path) -> None:
        """Write a compressed archive of plain arrays; expression as float16."""
        controls: dict[tuple[str, bytes], NDArray[np.float64]] = {}
        rows: list[tuple[int, int, int]] = []
        for number, response in enumerate(self.responses.values()):
            for row, name in enumerate(response.contexts):
                control = response.known.controls[row]
                key = (name, control.tobytes())  # contexts of several perturbations have the same controls
                controls.setdefault(key, control)
                rows.append((number, list(controls).index(key), int(response.known.n_cells[row])))
        empty = np.zeros((0, len(self.genes)))
        each = list(self.responses.values())
        counted: dict[str, Any] = {}
        if each and all(r.abundances is not None and r.log_folds is not None for r in each):
            for name in _OPTIONAL:
                counted[name] = np.concatenate([getattr(r, name) for r in each]).astype(np.float16)
        np.savez_compressed(
            file,
            genes=np.array(self.genes, dtype=str),
            perturbations=np.array(list(self.responses), dtype=str),
            contexts=np.array([name for name, _ in controls], dtype=str),
            context_of=np.array([row[:2] for row in rows], dtype=np.int32).reshape(-1, 2),
            n_cells=np.array([row[2] for row in rows], dtype=np.int64),
            controls=np.array(list(controls.values()) or empty, dtype=np.float16),
            changes=np.concatenate([empty, *(r.known.changes for r in each)]).astype(np.float16),
            expected=np.concatenate([empty, *(r.expected for r in each)]).astype(np.float16),
            rules=np.array(
                [(r.rule.temperature, r.rule.shares, r.model_share, r.usual_likeness) for r in each], dtype=np.float64
            ).reshape(-1, 4),
            **counted,
        )


def load(model: Model) -> KnownResponses:
    """Responses in a model's directory; empty without a file :data:`RESPONSE_FILE`.

    Raises
    ------
    ValueError
        The file is damaged.
    """
    file = Path(model.path) / RESPONSE_FILE
    if not model.is_local or not file.is_file():
        return KnownResponses(responses={})
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in (*_ARRAYS, *(key for key in _OPTIONAL if key in stored))}
        return _responses(arrays)
    except (ValueError, KeyError, IndexError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{file} has no responses that cell2sen can read: {error}. Copy the model again, or predict with "
            "measured=False"
        ) from error


def _responses(arrays: Mapping[str, NDArray[Any]]) -> KnownResponses:
    """Responses of the arrays of a file."""
    perturbation_of, control_of = arrays["context_of"].T
    names, n_genes = arrays["contexts"], len(arrays["genes"])
    sizes = {"controls": len(names), "changes": len(perturbation_of), "expected": len(perturbation_of)}
    for key, n in {**sizes, **{key: len(perturbation_of) for key in _OPTIONAL if key in arrays}}.items():
        if arrays[key].shape != (n, n_genes):
            raise ValueError(f"{key} must be {(n, n_genes)}, found {arrays[key].shape}")
    responses = {}
    for number, (name, rule) in enumerate(zip(arrays["perturbations"], arrays["rules"], strict=True)):
        rows = np.flatnonzero(perturbation_of == number)
        controls = control_of[rows]
        responses[str(name)] = KnownResponse(
            contexts=tuple(map(str, names[controls])),
            known=KnownChanges(
                controls=arrays["controls"][controls].astype(np.float64),
                changes=arrays["changes"][rows].astype(np.float64),
                n_cells=arrays["n_cells"][rows].tolist(),
            ),
            expected=arrays["expected"][rows].astype(np.float64),
            rule=Transfer(temperature=float(rule[0]), shares=bool(rule[1])),
            model_share=float(rule[2]),
            abundances=arrays["abundances"][rows].astype(np.float64) if "abundances" in arrays else None,
            log_folds=arrays["log_folds"][rows].astype(np.float64) if "log_folds" in arrays else None,
            usual_likeness=float(rule[3]),
        )
    return KnownResponses(genes=tuple(map(str, arrays["genes"])), responses=responses)


def changed(control: NDArray[np.float64], change: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Control plus change, float32 (cells, genes): at least 0, at most ln(1 + 10,000), a cell with no other gene."""
    return np.clip(control + change, 0.0, np.log1p(TARGET)).astype(np.float32)
