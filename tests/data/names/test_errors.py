from __future__ import annotations

import pytest

from cell2sen.data.names.errors import text_of


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no file"), "no file"),
        (KeyError("no column 'a'"), "no column 'a'"),
        (MemoryError(), "MemoryError"),
        (KeyError(), "KeyError"),
    ],
)
def test_text_has_no_quotes_and_is_never_empty(error: Exception, text: str) -> None:
    assert text_of(error) == text
