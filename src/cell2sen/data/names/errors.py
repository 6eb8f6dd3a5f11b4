"""Errors that a user can mend, and their text without the quotes of a KeyError."""

from __future__ import annotations

#: Errors in files, data or options: their text is shown as it is. Others are faults of the program.
MENDABLE = (ValueError, TypeError, KeyError, ImportError, OSError, NotImplementedError, MemoryError)


def text_of(error: BaseException) -> str:
    """Text of an error; its type where it has none."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return str(text) or type(error).__name__
