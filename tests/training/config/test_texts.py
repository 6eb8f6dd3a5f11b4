"""Texts of a training file: given, in a file, in several files."""

from __future__ import annotations

from pathlib import Path

import pytest

from cell2sen.training.config.texts import text_files, texts_of


def test_given_and_in_files(tmp_path: Path) -> None:
    (tmp_path / "b1.txt").write_text("First\nof\n\nall.\n", encoding="utf-8")
    (tmp_path / "b2.txt").write_text("\ufeffSecond.", encoding="utf-8")
    texts = {"abstract": ["b*.txt", "Third."], "summary": ["b2.txt"]}
    assert texts_of(texts, "abstract", tmp_path) == ("First of all.", "Second.", "Third.")
    assert texts_of(texts, "summary", tmp_path) == ("Second.",)
    assert [path.name for path in text_files(texts, tmp_path)] == ["b1.txt", "b2.txt", "b2.txt"]


@pytest.mark.parametrize("text", ["none.txt", "none*.txt"])
def test_files_that_do_not_exist(tmp_path: Path, text: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no text file .*none"):
        texts_of({"abstract": [text]}, "abstract", tmp_path)


@pytest.mark.parametrize("texts", [[], [" "], ["empty.txt"]])
def test_empty_texts(tmp_path: Path, texts: list[str]) -> None:
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="'abstract' must have a text"):
        texts_of({"abstract": texts}, "abstract", tmp_path)
