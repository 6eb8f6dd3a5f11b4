"""Names of genes, and var frames of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

ISG15, STAT1, MX1, NO_NAME = "ENSG00000187608", "ENSG00000115415", "ENSG00000157601", "ENSG00000290825"
TABLE = {ISG15: "ISG15", STAT1: "STAT1", MX1: "MX1", NO_NAME: NO_NAME}


def frame(index: Any, **columns: Any) -> pd.DataFrame:
    """var with this index."""
    return pd.DataFrame(columns, index=pd.Index(index))


def slow_apply(names: Sequence[str | None], dense: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Symbols in the order of their first column, and the maximum over the columns of each; one loop."""
    groups = defaultdict(list)
    for column, name in enumerate(names):
        if name is not None:
            groups[name].append(column)
    merged = [np.fmax.reduce(dense[:, columns], axis=1) for columns in groups.values()]
    return tuple(groups), np.stack(merged, axis=1)
