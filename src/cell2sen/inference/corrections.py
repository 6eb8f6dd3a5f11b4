"""Stored corrections of expected responses: their file and their formula.

A small model learns the direction of a response before its size, and reads no gene beyond the end of a sentence. Both
errors are similar in all cells. Their mean over the contexts (cell types, donors) of the training, times a fitted share
(:mod:`cell2sen.training.release.fit_corrections`), is added to predictions for any cell; differences between cells come
from the model alone.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.scale.units import TARGET
from cell2sen.model import Model

#: File in the model's directory.
CORRECTION_FILE = "corrections.npz"


@dataclass(frozen=True, kw_only=True, eq=False)
class Corrections:
    """Corrections of a model."""

    genes: tuple[str, ...]
    """Symbol of each column of `amounts`."""

    amounts: Mapping[str, NDArray[np.float32]]
    """Perturbation → float32 (genes,). Positive amounts, ln(1 + CP10k), are added to the prediction. Negative amounts,
    down to -1, are the share of the prediction that is subtracted, as expression cannot fall below 0."""

    def of(self, perturbation: str, symbols: Sequence[str]) -> NDArray[np.float32]:
        """Amounts for these genes, float32 (symbols,); 0 for genes and perturbations without a correction."""
        amounts = self.amounts.get(perturbation)
        if amounts is None:
            return np.zeros(len(symbols), dtype=np.float32)
        column_of = {gene: column for column, gene in enumerate(self.genes)}
        columns = [column_of.get(symbol, len(self.genes)) for symbol in symbols]
        return np.append(amounts, np.float32(0))[columns]

    def write(self, file: Path) -> None:
        """Write a compressed archive of plain arrays; amounts as float16."""
        np.savez_compressed(
            file,
            genes=np.array(self.genes, dtype=str),
            perturbations=np.array(list(self.amounts), dtype=str),
            amounts=np.array(list(self.amounts.values()), dtype=np.float16).reshape(-1, len(self.genes)),
        )


def load(model: Model) -> Corrections:
    """Corrections in a model's directory; empty without a file :data:`CORRECTION_FILE`.

    Raises
    ------
    ValueError
        The file is damaged.
    """
    file = Path(model.path) / CORRECTION_FILE
    if not model.is_local or not file.is_file():
        return Corrections(genes=(), amounts={})
    try:
        with np.load(file, allow_pickle=False) as stored:
            genes, names, amounts = (stored[key] for key in ("genes", "perturbations", "amounts"))
            if amounts.shape != (len(names), len(genes)):
                raise ValueError(f"amounts must be {(len(names), len(genes))}, found {amounts.shape}")
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{file} has no corrections that cell2sen can read: {error}. Copy the model again, or predict with "
            "correction=False"
        ) from error
    return Corrections(
        genes=tuple(map(str, genes)),
        amounts={str(name): row for name, row in zip(names, amounts.astype(np.float32), strict=True)},
    )


def corrected(
    control: NDArray[np.float32], change: NDArray[np.float32], amount: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Predicted expression with its correction, float32 (cells, genes), ln(1 + CP10k).

    p + max(a, 0) + min(a, 0) · p, with p = max(control + change, 0) and the amount a; at most ln(1 + 10,000), where a
    cell has no other gene.

    Parameters
    ----------
    control, change
        Measured expression and expected change, float32 (cells, genes), ln(1 + CP10k).
    amount
        :meth:`Corrections.of`, float32 (genes,) or (cells, genes).
    """
    predicted: NDArray[np.float32] = np.maximum(control + change, 0)
    predicted += np.maximum(amount, 0) + np.minimum(amount, 0) * predicted
    return np.minimum(predicted, np.float32(np.log1p(TARGET)), out=predicted)
