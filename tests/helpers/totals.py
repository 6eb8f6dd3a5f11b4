"""Counts of cells normalised to a total."""

from __future__ import annotations

import numpy as np


def to_total(counts: np.ndarray, total: float = 1e4) -> np.ndarray:
    """Each cell (row) over its sum, times `total`."""
    return np.asarray(counts / counts.sum(axis=1, keepdims=True) * total)
