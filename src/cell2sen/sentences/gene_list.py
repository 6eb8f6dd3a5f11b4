"""Genes by their numbers in a list of symbols that many cells share; strings are made where somebody reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


class NumberedGenes(Sequence[str]):
    """The genes of one cell. Reads as, equals and hashes as the tuple of their symbols; a slice shares its memory.

    A thousand strings take longer to look up than their numbers do, and a prompt's token ids want the numbers only.

    Parameters
    ----------
    numbers
        int32 (n,): the genes in order, as places in `symbols`. Not to be changed afterwards.
    symbols
        Object array of str (symbols,). The same array for all cells, as whatever is found out about its symbols is
        kept with it. Not to be changed afterwards.
    """

    __slots__ = ("numbers", "symbols")

    def __init__(self, numbers: NDArray[np.int32], symbols: NDArray[Any]) -> None:
        self.numbers = numbers
        self.symbols = symbols

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> NumberedGenes: ...
    def __getitem__(self, place: int | slice) -> str | NumberedGenes:
        if isinstance(place, slice):
            return NumberedGenes(self.numbers[place], self.symbols)
        return str(self.symbols[self.numbers[place]])

    def __iter__(self) -> Iterator[str]:
        return iter(self.symbols[self.numbers].tolist())

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, tuple | NumberedGenes) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))
