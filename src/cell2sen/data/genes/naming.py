"""What depends on the names of the genes alone, kept for the next time that they come."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Collection, Hashable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cell2sen.data.genes import symbols as genes
from cell2sen.data.genes.gene_map import GeneMap

if TYPE_CHECKING:
    import pandas as pd

#: Data sets whose names are kept: a few in turn.
_KEPT = 8

_maps: OrderedDict[Hashable, GeneMap] = OrderedDict()
_lock = threading.Lock()


def resolve(var: pd.DataFrame, *, symbols: str | None, table: Any, aliases: Any, case: Any) -> GeneMap:
    """:func:`cell2sen.data.genes.symbols.resolve` with a cache of recent results; logs the same each time."""
    key = _key(var, symbols) if table is None and aliases is None else None
    if key is None:
        return genes.resolve(var, symbols=symbols, table=table, aliases=aliases, case=case)
    with _lock:
        found = _maps.get((key, case))
    if found is not None:
        found.log()
    else:
        found = genes.resolve(var, symbols=symbols, case=case)
    with _lock:
        _maps[key, case] = found
        _maps.move_to_end((key, case))
        while len(_maps) > _KEPT:
            _maps.popitem(last=False)
    # What is handed out may be changed.
    columns, positions = found.columns.copy(), found.positions.copy()
    return replace(found, columns=columns, positions=positions, account=copy.deepcopy(found.account))


def guess_organism(names: Collection[Any]) -> str | None:
    """:func:`cell2sen.data.genes.symbols.guess_organism`, at once where it was asked the same just before."""
    texts = _texts(names)
    return genes.guess_organism(names) if texts is None else _guess(texts)


_guess = lru_cache(maxsize=_KEPT)(genes.guess_organism)


@lru_cache(maxsize=_KEPT)
def arrow(symbols: tuple[str, ...]) -> pa.StringArray:
    """Symbols as Arrow has them."""
    return pa.array(symbols, type=pa.string())


def _key(var: pd.DataFrame, symbols: str | None) -> Hashable:
    """All that a gene map is made of; None if that is not text alone."""
    wanted = {genes.plain(name) for name in (*genes.SYMBOL_COLUMNS, *genes.ID_COLUMNS)}
    columns = [name for name in var.columns if name == symbols or genes.plain(name) in wanted]
    if not var.columns.is_unique:
        return None
    texts = [_texts(values) for values in (var.index, *(var[name] for name in columns))]
    return None if None in texts else (var.index.name, symbols, tuple(var.columns), *texts)


def _texts(values: Any) -> tuple[str, ...] | None:
    """The values; None if some are no text, since other things are equal that are not written alike (1 and 1.0)."""
    import pandas as pd

    index = values if isinstance(values, pd.Index) else pd.Index(values, dtype=object)
    return tuple(index.tolist()) if index.inferred_type == "string" else None
