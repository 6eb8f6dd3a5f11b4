"""What a trained model's expected responses miss on average, per perturbation and gene, measured on its training cells.

A small model learns the direction of a response sooner than its size, and sees no gene behind the end of a sentence.
Both errors are much the same in all cells. So their mean over the cell types and donors that were trained on is added
to what the model expects of other cells: how a cell differs from others remains the model's business.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cell2sen.model import Model

#: Beside the weights.
CORRECTION_FILE = "corrections.npz"


@dataclass(frozen=True, kw_only=True, eq=False)
class Corrections:
    """The corrections of a model."""

    genes: tuple[str, ...]

    amounts: Mapping[str, NDArray[np.float32]]
    """Perturbation → float32 (genes,). An amount above 0 is added to what is predicted of a cell, in ln(1 + CP10k); one
    below is the share of it that is taken away, down to -1, for what is not there cannot fall."""

    def of(self, perturbation: str, symbols: Sequence[str]) -> NDArray[np.float32]:
        """The amounts of these genes, float32 (symbols,); 0 where nothing is known."""
        known = self.amounts.get(perturbation)
        if known is None:
            return np.zeros(len(symbols), dtype=np.float32)
        place = {gene: number for number, gene in enumerate(self.genes)}
        found = [place.get(symbol, len(self.genes)) for symbol in symbols]
        return np.append(known, np.float32(0))[found]

    def write(self, file: Path) -> None:
        """Write a compressed archive of plain arrays."""
        np.savez_compressed(
            file, genes=np.array(self.genes, dtype=str), perturbations=np.array(list(self.amounts), dtype=str),
            amounts=np.array(list(self.amounts.values()), dtype=np.float16).reshape(-1, len(self.genes)),
        )  # fmt: skip


def load(model: Model) -> Corrections:
    """The corrections of a model directory; none where it has no such file.

    Raises
    ------
    ValueError
        The file cannot be read.
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
        raise ValueError(f"{file} holds no corrections that cell2sen can read: {error}") from error
    return Corrections(
        genes=tuple(map(str, genes)),
        amounts={str(name): row for name, row in zip(names, amounts.astype(np.float32), strict=True)},
    )


def corrected(
    control: NDArray[np.float32], change: NDArray[np.float32], amount: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Predicted expression, float32 (cells, genes), not negative.

    Parameters
    ----------
    control, change
        Measured expression and expected change in ln(1 + CP10k), (cells, genes).
    amount
        :meth:`Corrections.of`, (genes,) or (cells, genes).
    """
    found: NDArray[np.float32] = np.maximum(control + change, 0)
    found += np.maximum(amount, 0) + np.minimum(amount, 0) * found
    return found
