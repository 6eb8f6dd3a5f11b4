from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cells import GENES, cells, fake

from cell2sen.backend import Sampling
from cell2sen.inference.generate import GeneratedCells, check_cell_types, generate_cells, generation_session

SAMPLING = Sampling(temperature=1.0)


def generated(genes: Any, n_genes: int | None = None, guided: bool = True, **options: Any) -> GeneratedCells:
    session, organism = generation_session(genes, {"model": fake(), "progress": False, **options})  # type: ignore[typeddict-item]
    return generate_cells(
        session, ["B cell", "NK cell"], n=2, organism=organism, sampling=SAMPLING, n_genes=n_genes, guided=guided
    )


def test_cells_are_in_the_order_of_their_types() -> None:
    drawn = generated(GENES, n_genes=5)
    assert drawn.names == ["B cell-0", "B cell-1", "NK cell-0", "NK cell-1"]
    assert drawn.cell_types == ["B cell", "B cell", "NK cell", "NK cell"]
    assert [len(answer.genes) for answer in drawn.answers] == [5] * 4
    assert (np.diff(drawn.expression.indptr) <= 5).all()
    assert drawn.n_genes == 5


def test_length_is_the_models_within_the_genes_there_are() -> None:
    assert generated(GENES).n_genes == len(GENES)
    assert generated(GENES, model=fake(lengths={"generate": 7})).n_genes == 7
    with pytest.raises(ValueError, match="only 3 to choose from"):
        generated(GENES[:3], n_genes=4)
    assert generated(GENES[:3], n_genes=4, guided=False).n_genes == 4


def test_organism_of_symbols_and_of_data() -> None:
    options: Any = {"model": fake(), "progress": False}
    assert generation_session(GENES, options)[1] == "Homo sapiens"
    assert generation_session(GENES, {**options, "organism": "mouse"})[1] == "Mus musculus"
    adata = cells()
    adata.obs["organism"] = "mouse"
    assert generation_session(adata, options)[1] == "Mus musculus"
    adata.obs["organism"] = ["human", "mouse"] * 3
    with pytest.raises(ValueError, match=r"several organisms, \['Homo sapiens', 'Mus musculus'\]"):
        generation_session(adata, options)


def test_symbols_are_written_once_and_in_the_models_case() -> None:
    session, _ = generation_session(["cd4", "CD4", "Lyz"], {"model": fake(), "case": "upper", "progress": False})
    assert session.sentences.symbols == ["CD4", "LYZ"]
    assert session.matrix == ""


@pytest.mark.parametrize(("cell_type", "n", "match"), [
    ([], 1, "one name or several"), (" ", 1, "one name or several"), (["a", "a"], 1, "must differ"), ("a", 0, "n must"),
])  # fmt: skip
def test_cell_types_that_cannot_be_generated(cell_type: Any, n: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        check_cell_types(cell_type, n, None)
