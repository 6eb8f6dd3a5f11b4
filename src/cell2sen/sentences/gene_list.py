"""GeneList: a cell's genes as integer ids into a shared vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


class GeneList(Sequence[str]):
    """Genes of one cell: iterates, compares and hashes as the tuple of their symbols. A slice shares the memory.

    Building a thousand strings takes longer than looking up a prompt's token ids, for which gene ids are enough.

    Parameters
    ----------
    ids
        int32 (n,): the genes in order, as indices into `symbols`. Must not be changed afterwards.
    symbols
        Object array of str (symbols,), the same array object for all cells, since tables of token ids are cached per
        array. Must not be changed afterwards.
    """

    __slots__ = ("ids", "symbols")

    def __init__(self, ids: NDArray[np.int32], symbols: NDArray[Any]) -> None:
        self.ids = ids
        self.symbols = symbols

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> GeneList: ...
    def __getitem__(self, index: int | slice) -> str | GeneList:
        if isinstance(index, slice):
            return GeneList(self.ids[index], self.symbols)
        return str(self.symbols[self.ids[index]])

    def __iter__(self) -> Iterator[str]:
        return iter(self.symbols[self.ids].tolist())

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, tuple | GeneList) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))
