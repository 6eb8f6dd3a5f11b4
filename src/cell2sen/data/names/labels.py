"""Labels: normalised spelling, spellings of one label that differ, labels of cells without a type."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

#: Labels of cells that nobody named, normalised. They are learned and scored like others.
NO_TYPE = frozenset(
    {
        "unknown", "unassigned", "unclassified", "unlabelled", "unlabeled", "undefined", "undetermined", "unidentified",
        "not assigned", "not available", "not determined", "ambiguous", "doublet", "multiplet", "low quality",
        "lowquality", "filtered", "other", "misc", "none", "", "na", "n a", "nil", "missing", "unk", "unannotated",
        "not annotated", "unspecified", "not specified", "uncertain", "debris", "junk", "error",
    }
)  # fmt: skip


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


def twins(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ only in case, punctuation, plural or form of letters: "B cell" and "B-Cells".

    Signs between digits tell names apart: cluster 1.1 is not 11.
    """
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        apart = re.sub(r"(?<=\d)[\W_]+(?=\d)", "x", unicodedata.normalize("NFKC", name))
        key = normalise_label(apart).casefold().replace(" ", "")
        groups.setdefault(key or name, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def without_type(labels: Iterable[str]) -> list[str]:
    """Those of the labels that mean that the type of a cell is not known (:data:`NO_TYPE`)."""
    return [label for label in labels if normalise_label(label).strip("-") in NO_TYPE]
