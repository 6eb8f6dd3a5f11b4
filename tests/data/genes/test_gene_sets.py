"""Gene sets of GMT files."""

from __future__ import annotations

from pathlib import Path

import pytest

from cell2sen.data.genes.gene_sets import gene_set, read_gmt


def test_sets_are_read_from_gmt(tmp_path: Path) -> None:
    file = tmp_path / "sets.gmt"
    file.write_text("ONE\thttp://x\tA\tB\tA\t\n\nTWO\t\tC\n", encoding="utf-8")
    assert read_gmt(file) == {"ONE": ("A", "B"), "TWO": ("C",)}
    assert gene_set(file, "TWO") == ("C",)
    with pytest.raises(ValueError, match=r"has no gene set 'THREE'; available: \['ONE', 'TWO'\]"):
        gene_set(file, "THREE")
    with pytest.raises(FileNotFoundError, match="of gene sets"):
        gene_set(tmp_path / "none.gmt", "ONE")
    file.write_text("ONE A B\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: a gene set must be name"):
        read_gmt(file)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_sets_saved_by_other_programs(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "sets.gmt"
    file.write_bytes("ONE\tx\tA\tB\r\nTWO\tx\tC\r\n".encode(encoding))
    assert read_gmt(file) == {"ONE": ("A", "B"), "TWO": ("C",)}
