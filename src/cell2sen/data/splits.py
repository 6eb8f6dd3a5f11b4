"""Cell barcodes and hashes of held-out cells' names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable


def barcode(name: str) -> str:
    """A cell's barcode: the DNA in its name (``AAACATACAACCAC-1_ctrl``), or the whole name where there is none."""
    match = re.search(r"(?<![A-Za-z])[ACGT]{8,}(?![A-Za-z])", name)
    return match[0] if match else name


def sha256_of_names(names: Iterable[str]) -> str:
    """SHA-256 of sorted names, one a line: hex digits, as ``split`` of a model's metadata has it."""
    return hashlib.sha256("\n".join(sorted(map(str, names))).encode()).hexdigest()
