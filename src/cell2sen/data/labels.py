"""Normalised spelling of cell type labels: without case, punctuation and plural."""

from __future__ import annotations

import re
from collections.abc import Mapping


def trim_label(text: str) -> str:
    """A label without surrounding white space, one final full stop and a trailing ", human" or ", mouse".

    The 27B checkpoint writes ", human" and ", mouse" behind its labels.
    """
    return re.sub(r", (human|mouse)$", "", str(text).strip().removesuffix(".").strip())


def normalise_label(text: str, synonyms: Mapping[str, str] | None = None) -> str:
    """A trimmed label without case, punctuation and plural: ``"CD14+ Monocytes."`` → ``"cd14+ monocyte"``.

    Plus signs and slashes stay, as they tell cell types apart. A hyphen becomes a space, unless it ends a word
    (``"CD25-"``). An s is a plural behind at least three letters, but not behind another s (``"DCs"`` and ``"class"``
    keep it).

    Parameters
    ----------
    text
        A label.
    synonyms
        Label → label with the same meaning. Both are normalised, then applied once.
    """
    table = {_normalised(name): _normalised(meaning) for name, meaning in (synonyms or {}).items()}
    label = _normalised(text)
    return table.get(label, label)


def _normalised(text: str) -> str:
    text = re.sub(r"[-‐–](?=\w)|_", " ", trim_label(text).lower())
    words = re.sub(r"[^\w+\-/αβγδ ]", " ", text).split()
    return " ".join(re.sub(r"(?<=[a-z]{3})(?<!s)s$", "", word) for word in words)
