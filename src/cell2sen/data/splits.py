"""Held-out cells: by cell or by group; cell barcodes, and hashes of cell names."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.data.names.text import as_text
from cell2sen.data.obs import text_column

logger = logging.getLogger(__name__)


def held_out_cells(
    obs: pd.DataFrame,
    *,
    by: str,
    share: float,
    values: Collection[str] = (),
    control: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> NDArray[np.bool_]:
    """Mask of held-out cells, which training must not use, bool (cells,).

    Parameters
    ----------
    by
        ``"cell"``, or the obs column of groups that are held out as a whole.
    share
        Share of cells, or of groups, that is held out at random.
    values
        Groups to hold out instead of a random share. Cells without a value are not held out; a warning counts them.
    control
        bool (cells,): unperturbed cells. If given, only perturbed cells are held out by group; of the controls, those
        among a random `share` of all cells are held out.

    Raises
    ------
    KeyError
        No such obs column.
    ValueError
        No such group; lists the available ones.
    """
    generator = np.random.default_rng(seed)
    drawn = np.zeros(len(obs), dtype=bool)
    drawn[generator.permutation(len(obs))[len(obs) - round(share * len(obs)) :]] = True
    if by == "cell":
        return drawn
    groups = text_column(obs, by)
    if n_missing := sum(group is None for group in groups):
        logger.warning("%d of %d cells have no value in obs[%r]: they are not held out", n_missing, len(obs), by)
    names = sorted({group for group in (groups if control is None else groups[~control]) if group is not None})
    values = [as_text(value) or str(value) for value in values]
    if unknown := sorted(set(values) - set(names)):
        raise ValueError(f"obs[{by!r}] has no {unknown} to hold out; available: {names}")
    n_groups = max(round(share * len(names)), int(share > 0))
    held_out = np.isin(groups, values or generator.permutation(names)[:n_groups].tolist())
    return held_out if control is None else np.where(control, drawn, held_out)


#: DNA in the name of a cell; velocyto writes an x behind it.
_DNA = re.compile(r"(?<![A-Za-z])[ACGT]{8,}(?=x?(?![A-Za-z]))")
#: Names that are a barcode alone, perhaps with the number of a library, or the wells of split-pool barcoding: equal
#: ones in two experiments may be different cells.
_BARE = re.compile(r"[ACGT]{8,}(?:[-_.:][ACGT]{6,})*x?(?:[-_.]\d{1,3})*|\d{1,3}(?:_\d{1,3}){2,3}(?:__s\d+)?")
#: Barcodes of 10x's first large list, of which the cells of an experiment are drawn; later lists are longer.
_MAX_BARCODES = 737_280
#: Length of a barcode that is unique without further ones: shorter ones are parts of one (split-pool, inDrop).
_WHOLE_BARCODE = 12


def barcode(name: str) -> str:
    """Barcode of a cell: the DNA sequence in its name (``AAACATACAACCAC-1_ctrl``), else the whole name.

    Several short sequences are one barcode (``GTCACGGG_AAACATAC``).
    """
    found = _DNA.findall(name)
    long = [sequence for sequence in found if len(sequence) >= _WHOLE_BARCODE]
    return max(long, key=len) if long else "_".join(found) or name


def equal_by_chance(names: Collection[str], others: Collection[str]) -> float:
    """Number of equal names to expect by chance in two experiments, if the names are only barcodes; else 0.

    A barcode without the name of a sample, such as ``AAACATACAACCAC-1``, is used again in other experiments.
    """
    return equal_to_some_by_chance(names, sum(_BARE.fullmatch(name) is not None for name in others))


def equal_to_some_by_chance(names: Collection[str], n_others: int) -> float:
    """Number of names to expect among those of another experiment by chance, if these are `n_others` bare barcodes."""
    bare = [name for name in names if _BARE.fullmatch(name)]
    if not bare:
        return 0.0
    code = barcode(bare[0]).replace("_", "")
    possible = 4 ** len(code) if code[:1] in "ACGT" else 96**3
    return len(bare) * n_others / min(possible, _MAX_BARCODES)


def sha256_of_names(names: Iterable[str]) -> str:
    """SHA-256 of the sorted names, one per line, as hex digits; stored in the metadata of trained models."""
    return hashlib.sha256("\n".join(sorted(map(str, names))).encode()).hexdigest()


def hashes_of_names(names: Iterable[str]) -> NDArray[np.uint64]:
    """First 8 bytes of the BLAKE2b hash of each distinct name, uint64, ascending: equal names have equal hashes."""
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in {str(name) for name in names}]
    return np.sort(np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64))


#: Names that count cells: 0, 1, 2, … as AnnData, cell_0, Cell1, X1 and so on; also with a batch behind (1-0, 1-b2).
_COUNTED = re.compile(
    r"(?:cells?|obs|row|index|idx|barcode|bc|spot|sample|c|x|n|v)?[ _.:-]*(\d+)(?:[-_.](?:\d+|batch\d*|b\d+))*",
    re.IGNORECASE,
)


def are_counted(names: Collection[str]) -> bool:
    """Whether cell names are numbers that count cells, such as 0, 1, 2, … or cell_0: equal ones prove nothing.

    Numbers that are much larger than the number of cells are identifiers.
    """
    numbers = []
    for name in names:
        match = _COUNTED.fullmatch(name)
        if match is None:
            return False
        numbers.append(int(match[1]))
    return bool(numbers) and max(numbers) <= 100 * len(numbers) + 1000
