"""Harmony on embeddings: what differs between batches within groups of similar cells is taken out."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.data.names.text import some
from cell2sen.data.obs import text_column

logger = logging.getLogger(__name__)

#: Cells below which Harmony has no groups to compare, and cells of a batch below which a warning is logged.
MIN_CELLS, MIN_BATCH = 30, 20


def batches_of(obs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Batch of each cell, a column of text for each of `columns`.

    Raises
    ------
    KeyError
        No such column; lists the available ones.
    ValueError
        Cells without a batch, or a column with one value.
    """
    if not columns:
        raise ValueError("batch must name at least one column of obs, found none")
    table = {}
    for column in columns:
        texts = text_column(obs, column)
        if n_missing := sum(text is None for text in texts):
            raise ValueError(
                f"obs[{column!r}] must have a batch for each cell, found {n_missing} of {len(texts)} without: fill "
                "them in, or leave these cells out"
            )
        counts = pd.Series(texts).value_counts()
        if len(counts) < 2:
            raise ValueError(
                f"obs[{column!r}] must have at least two batches to integrate, found {list(counts.index)}: name "
                "another column as batch=, or none for neighbours, UMAP and clusters alone"
            )
        if few := [f"{name} ({n})" for name, n in counts.items() if n < MIN_BATCH]:
            logger.warning("obs[%r]: batches with fewer than %d cells: %s", column, MIN_BATCH, some(sorted(few)))
        table[column] = texts
    return pd.DataFrame(table)


def harmony(vectors: NDArray[np.float32], batches: pd.DataFrame, seed: int = 0) -> NDArray[np.float32]:
    """Embeddings after Harmony (Korsunsky et al. 2019), as harmonypy computes it with its own settings.

    Parameters
    ----------
    vectors
        float32 (n, hidden), without NaN; see :func:`scaled`.
    batches
        A row per cell, a column per kind of batch; see :func:`batches_of`.

    Returns
    -------
    float32 (n, hidden).

    Raises
    ------
    ValueError
        Fewer than 30 cells.
    ImportError
        harmonypy is not installed.
    """
    if len(vectors) < MIN_CELLS:
        raise ValueError(f"Harmony needs at least {MIN_CELLS} cells with genes, found {len(vectors)}")
    require_harmony()
    from harmonypy import run_harmony

    logging.getLogger("harmonypy").setLevel(logging.WARNING)
    given = vectors.astype(np.float64).T  # cells in columns: harmonypy guesses the side by its length
    result = run_harmony(given, batches, list(batches.columns), random_state=seed, ncores=1, verbose=False)
    corrected = np.asarray(result.Z_corr)
    return np.asarray(corrected if corrected.shape == vectors.shape else corrected.T, dtype=np.float32)


def scaled(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embeddings with mean 0 and variance 1 in each dimension, NaN left as it is.

    A few dimensions of a language model have most of its variance, and little of it is biology: on two benchmarks the
    neighbours are better after scaling (docs/how-to/integrate.md). Principal components must not be scaled.
    """
    given = vectors.astype(np.float64)
    width = np.nanstd(given, axis=0)
    return np.asarray((given - np.nanmean(given, axis=0)) / np.where(width < 1e-9, 1.0, width), dtype=np.float32)


def require_harmony() -> None:
    """Raise an ImportError with a hint unless harmonypy is installed."""
    try:
        import harmonypy  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "integration of batches needs harmonypy: pip install 'cell2sen[integrate]', or leave batch= out for "
            "neighbours, UMAP and clusters alone"
        ) from error
