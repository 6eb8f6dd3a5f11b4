"""Normalised spelling of cell type labels: without case, punctuation and plural."""

from __future__ import annotations

import re
from collections.abc import Mapping


def trim_label(text: str) -> str:
    """Label without surrounding white space, a final full stop and a trailing ", human" or ", mouse".

    The 27B checkpoint writes ", human" and ", mouse" after its labels.
    """
    return re.sub(r", (human|mouse)$", "", str(text).strip().removesuffix(".").strip())


def normalise_label(text: str, synonyms: Mapping[str, str] | None = None) -> str:
    """Trimmed label without case, punctuation and plural: ``"CD14+ Monocytes."`` → ``"cd14+ monocyte"``.

    Plus signs and slashes are kept, since they distinguish cell types. A hyphen becomes a space, unless it ends a word
    (``"CD25-"``). A final s is removed after at least three letters, but not after another s (``"DCs"`` and ``"class"``
    keep it).

    Parameters
    ----------
    text
        A label.
    synonyms
        Label → label with the same meaning. Both are normalised; the replacement is made once.
    """
    table = {_normalised(name): _normalised(meaning) for name, meaning in (synonyms or {}).items()}
    label = _normalised(text)
    return table.get(label, label)


def _normalised(text: str) -> str:
    text = re.sub(r"[-‐–](?=\w)|_", " ", trim_label(text).lower())
    words = re.sub(r"[^\w+\-/αβγδ ]", " ", text).split()
    return " ".join(re.sub(r"(?<=[a-z]{3})(?<!s)s$", "", word) for word in words)
