"""Colours of categories: one colour per name in all panels of a figure, safe for colour-blind readers."""

from __future__ import annotations

import colorsys
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cell2sen.data.names.labels import normalise_label

#: Okabe and Ito's colours, which colour-blind readers can distinguish; their black is a grey, and their yellow is last.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#666666", "#F0E442")

#: Colours of cells without a label, and of those without a value or of other categories.
GREY, LIGHT_GREY = "#B0B0B0", "#DDDDDD"

#: Labels of cells that have none, which are drawn in grey.
NO_LABEL = frozenset({"unknown", "unassigned", "missing"})

#: Most categories that have a colour and a line in the legend; of more, this number of the most frequent ones.
MAX_CATEGORIES, MAX_SHOWN = 60, 40


def category_colours(names: Iterable[str], given: Mapping[str, str] | Sequence[str] | None = None) -> dict[str, str]:
    """Colour of each name; names that differ in case, punctuation or plural only have the same one.

    Up to eight are those of Okabe and Ito (2008), which colour-blind readers can distinguish. There are no more such
    hues: up to 25 categories have black and these hues in three lightnesses, and others hues of the whole circle.

    Parameters
    ----------
    names
        Categories, each once, in their order.
    given
        Colours to use: by name, or in the order of the names.

    Raises
    ------
    ValueError
        Fewer colours than names, or something that is no colour.
    """
    names = list(names)
    coloured = [name for name in names if name.lower() not in NO_LABEL]
    if given is not None and not isinstance(given, Mapping):
        listed = [given] if isinstance(given, str) else list(given)
        if len(listed) < len(coloured):
            raise ValueError(f"the palette has {len(listed)} colours for {len(coloured)} categories: {coloured[:8]}")
        given = dict(zip(coloured, listed, strict=False))
    fixed: dict[str, str] = {}
    if given:
        from matplotlib.colors import is_color_like, to_hex

        if wrong := [colour for colour in given.values() if not is_color_like(colour)]:
            raise ValueError(f"{wrong[0]!r} in the palette is no colour of matplotlib")
        fixed = {str(name): to_hex(colour).upper() for name, colour in given.items()}
    meanings = {normalise_label(name): colour for name, colour in fixed.items()}
    free = list(dict.fromkeys(normalise_label(name) for name in coloured if normalise_label(name) not in meanings))
    used = set(meanings.values())
    unused = [colour for colour in _palette(len(free) + len(used)) if colour not in used]
    meanings |= dict(zip(free, unused, strict=False))
    grey = {name: fixed.get(name, GREY) for name in names if name not in coloured}
    return {name: grey.get(name) or fixed.get(name) or meanings[normalise_label(name)] for name in names}


def _palette(n: int) -> tuple[str, ...]:
    """At least `n` different colours: Okabe and Ito's, then darker and lighter ones, then hues that are far apart."""
    if n <= len(OKABE_ITO):
        return OKABE_ITO
    colours = [*OKABE_ITO, "#000000"]
    colours += [_mixed(colour, 0.0, 0.45) for colour in OKABE_ITO] + [_mixed(colour, 1.0, 0.55) for colour in OKABE_ITO]
    golden = (math.sqrt(5) - 1) / 2
    for at in range(max(0, n - len(colours))):
        colours.append(_hex(colorsys.hls_to_rgb(golden * at % 1, 0.25 + 0.5 * (at * math.sqrt(2) % 1), 0.7)))
    return tuple(colours)


def _mixed(colour: str, other: float, share: float) -> str:
    """The colour with a share of black (0) or white (1)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return _hex([(1 - share) * part + share * other for part in parts])


def _hex(parts: Iterable[float]) -> str:
    return "#" + "".join(f"{round(255 * part):02X}" for part in parts)


def categories(values: pd.Series[Any]) -> pd.Series[Any]:
    """The values as categories that occur, as text: in the order of the categorical, or sorted with 9 before 10."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.cat.remove_unused_categories()
        return values.cat.rename_categories([str(name) for name in values.cat.categories])
    texts = [None if missing else str(value) for value, missing in zip(values, values.isna(), strict=True)]
    names = sorted({text for text in texts if text is not None}, key=_natural)
    return pd.Series(pd.Categorical(texts, categories=names), index=values.index)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Key of an order in which "10" is behind "9"."""
    parts = re.findall(r"\d+|\D+", name)
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part.lower()) for part in parts]


def is_categorical(values: pd.Series[Any]) -> bool:
    """Whether values are categories: text, categoricals or truth values."""
    return not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values)


def text_colour(background: Any) -> str:
    """Black or white, which is readable on `background` (relative luminance of WCAG 2)."""
    from matplotlib.colors import to_rgb

    parts = np.array(to_rgb(background))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return "black" if float(linear @ [0.2126, 0.7152, 0.0722]) > 0.18 else "white"
