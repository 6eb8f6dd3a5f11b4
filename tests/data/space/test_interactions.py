"""Tables of ligands and receptors: columns, complexes, case, genes that the cells lack."""

from __future__ import annotations

from pathlib import Path

import pytest

from cell2sen.data.space.interactions import read_interactions

GENES = ["CXCL12", "CXCR4", "TGFB1", "TGFBR1", "TGFBR2", "HLA-A", "CD8A", "LRP1"]


def test_receptors_of_each_ligand(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(
        "id,Ligand,Receptor\n1,TGFB1,TGFBR2_TGFBR1\n2,TGFB1,LRP1\n3,Cxcl12,CXCR4\n4,CXCL12,ACKR3\n5,HLA-A,CD8A\n6,,LRP1\n",
        encoding="utf-8",
    )
    assert read_interactions(tmp_path / "pairs.csv", GENES) == {
        "CXCL12": ("CXCR4",),
        "HLA-A": ("CD8A",),
        "TGFB1": ("LRP1", "TGFBR1", "TGFBR2"),
    }


def test_other_columns_and_tabs(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("source\ttarget\nCXCL12\tCXCR4\n", encoding="utf-8")
    assert read_interactions(tmp_path / "pairs.tsv", GENES) == {"CXCL12": ("CXCR4",)}


def test_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("a,b\nCXCL12,CXCR4\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"needs the columns ligand and receptor, found \['a', 'b'\]"):
        read_interactions(tmp_path / "pairs.csv", GENES)
    (tmp_path / "pairs.csv").write_text("ligand,receptor\nIL1B,IL1R1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="none of its 1 interactions"):
        read_interactions(tmp_path / "pairs.csv", GENES)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_interactions(tmp_path / "none.csv", GENES)
