"""tl.generate: drawn cells and their genes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from anndata_objects import QUIET
from cells import GENES, cells, fake

import cell2sen as c2s


def test_drawn_cells_differ_and_repeat_with_the_seed() -> None:
    options: dict[str, Any] = {"n": 4, "genes": GENES, "n_genes": 6, "model": fake(), **QUIET}
    first, same, other = (c2s.tl.generate("B cell", seed=seed, **options) for seed in (0, 0, 1))
    assert len(set(first.obs["sentence"])) > 1
    assert first.obs["sentence"].tolist() == same.obs["sentence"].tolist() != other.obs["sentence"].tolist()
    more = c2s.tl.generate(["NK cell", "B cell"], **{**options, "n": 6})
    assert more.obs.loc[first.obs_names, "sentence"].tolist() == first.obs["sentence"].tolist()


def test_genes_of_generated_cells(tmp_path: Path) -> None:
    adata = cells()
    adata.uns["organism"] = "mouse"
    adata.write_h5ad(tmp_path / "genes.h5ad")
    for genes in (adata, tmp_path / "genes.h5ad", str(tmp_path / "genes.h5ad")):
        drawn = c2s.tl.generate("B cell", n=1, genes=genes, model=fake(), **QUIET)
        assert list(drawn.var_names) == GENES
        assert drawn.uns["cell2sen"]["generate"]["organism"] == "Mus musculus"
    own = c2s.tl.generate("B cell", n=1, model=fake(genes=GENES[:9]), **QUIET)
    assert list(own.var_names) == GENES[:9]
    assert own.uns["cell2sen"]["generate"]["organism"] == "Homo sapiens"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"cell_type": []}, "one name or several"),
        ({"cell_type": [""]}, "one name or several"),
        ({"cell_type": ["B cell", "B cell"]}, "must differ"),
        ({"n": 0}, "n must be at least 1"),
        ({"n_genes": 0}, "n_genes must be at least 1"),
        ({"n_genes": 1000}, "only 3[0-9]|only [0-9]+ to choose from"),
        ({"genes": None}, "has no list of genes"),
        ({"genes": ["CD4", "two words"]}, "fake cannot write 1 of 2 genes.*two words"),
        ({"organism": ["human", "mouse"]}, "one name"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 2.0}, "top_p"),
    ],
)
def test_what_cannot_be_generated(arguments: dict[str, Any], match: str) -> None:
    options = {"cell_type": "B cell", "genes": GENES, "model": fake(), **QUIET, **arguments}
    with pytest.raises(ValueError, match=match):
        c2s.tl.generate(**options)


def test_names_in_one_text_are_split_as_those_of_annotate() -> None:
    options: dict[str, Any] = {"n": 1, "genes": GENES, "n_genes": 4, "model": fake(), **QUIET}
    assert c2s.tl.generate("B cell; NK cell", **options).obs["cell_type"].tolist() == ["B cell", "NK cell"]
    assert c2s.tl.generate(["B; cell", "1.0"], **options).obs["cell_type"].tolist() == ["B; cell", "1"]
