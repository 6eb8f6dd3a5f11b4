"""Expression to cell sentences and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cell2sen.sentences.writing import from_anndata

__all__ = ["from_anndata"]


def __getattr__(name: str) -> Any:
    """The function, imported at first use, since modules of this folder are imported where nothing is written."""
    if name != "from_anndata":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cell2sen.sentences.writing import from_anndata

    return from_anndata
