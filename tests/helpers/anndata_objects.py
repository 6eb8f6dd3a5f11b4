"""AnnData for the tests of :mod:`cell2sen.tl`: files, other values, and a model that records its prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from cells import cells, fake

QUIET: dict[str, Any] = {"progress": False}


def written_and_read(adata: anndata.AnnData, folder: Path) -> anndata.AnnData:
    """The object after a round trip through a file."""
    adata.write_h5ad(folder / "round.h5ad")
    return anndata.read_h5ad(folder / "round.h5ad")


def assert_same_uns(before: Any, after: Any) -> None:
    """Equal ``uns`` before and after a round trip through a file."""
    if isinstance(before, dict):
        assert set(before) == set(after)
        for key in before:
            assert_same_uns(before[key], after[key])
    elif isinstance(before, np.ndarray | list):
        assert np.asarray(before).tolist() == np.asarray(after).tolist()
    elif isinstance(before, pd.DataFrame):
        assert before.to_dict("list") == after.to_dict("list")
    else:
        assert before == after


def reordered(adata: anndata.AnnData) -> tuple[anndata.AnnData, list[int]]:
    """Some cells in another order, with their genes in reverse order; and their rows."""
    rows = [4, 1, 5]
    return adata[rows, list(adata.var_names[::-1])].copy(), rows


def with_values(change: Callable[[Any], None]) -> anndata.AnnData:
    """Six cells with values changed in the dense matrix."""
    adata = cells()
    dense = adata.X.toarray()
    change(dense)
    adata.X = sp.csr_matrix(dense)
    return adata


def assign(value: float, rows: Any = 1, columns: Any = 2) -> Callable[[Any], None]:
    """A change for :func:`with_values`."""

    def change(dense: Any) -> None:
        dense[rows, columns] = value

    return change


class PromptRecorder:
    """A backend without weights that records its prompts."""

    def __init__(self) -> None:
        self.backend = fake()
        self.prompts: list[Any] = []
        for verb in ("embed", "score", "generate"):
            setattr(self.backend, verb, self._recorded(getattr(self.backend, verb)))

    def _recorded(self, verb: Any) -> Any:
        def record(prompts: Any, *args: Any, **options: Any) -> Any:
            self.prompts += prompts
            return verb(prompts, *args, **options)

        return record
