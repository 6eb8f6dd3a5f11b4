from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cells import GENES, LABELS, cells, fake

from cell2sen import tl
from cell2sen.backend import Sampling
from cell2sen.inference.generate import (
    GeneratedCells,
    check_cell_types,
    chosen_candidates,
    generate_cells,
    generation_session,
    label_shares,
)

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


def test_shares_of_candidates_are_the_probabilities_of_annotate() -> None:
    session, organism = generation_session(GENES, {"model": fake(), "progress": False})
    drawn = tl.generate(LABELS, n=3, genes=GENES, n_genes=6, model=fake(), progress=False)
    kinds = drawn.obs["cell_type"].tolist()
    answers = generate_cells(session, LABELS, n=3, organism=organism, sampling=SAMPLING, n_genes=6).answers
    drawn.uns["organism"] = organism
    tl.annotate(drawn, model=fake(), scale="log1p", progress=False)
    probabilities = drawn.obsm["cell2sen_cell_type_probabilities"]
    expected = [probabilities.iloc[row][kind] for row, kind in enumerate(kinds)]
    np.testing.assert_allclose(np.exp(label_shares(session, kinds, answers, organism)), expected, rtol=1e-6)
    # A type that is no default label is compared with all of them, and with nothing else that is generated.
    alone = label_shares(session, ["plasma cell"], answers[:1], organism)
    beside = label_shares(session, ["plasma cell", "mast cell"], answers[:2], organism)
    assert alone[0] == pytest.approx(beside[0])
    assert alone[0] < 0


def test_candidates_are_kept_in_proportion_to_their_probability() -> None:
    names = [f"B cell-{number}" for number in range(2000)]
    shares = np.log(np.repeat([[0.1, 0.6, 0.2]], 2000, axis=0))
    kept = np.bincount(chosen_candidates(shares, names, seed=0), minlength=3) / 2000
    np.testing.assert_allclose(kept, [1 / 9, 6 / 9, 2 / 9], atol=0.03)
    again = chosen_candidates(shares[5:8], names[5:8], seed=0)
    assert again.tolist() == chosen_candidates(shares, names, seed=0)[5:8].tolist()
    empty = np.array([[-np.inf, np.log(0.2)], [-np.inf, -np.inf]])
    assert chosen_candidates(empty, names[:2], seed=0).tolist() == [1, 0]


def test_a_cell_is_one_of_its_candidates_whatever_is_drawn_beside_it() -> None:
    session, organism = generation_session(GENES, {"model": fake(), "progress": False})
    options: Any = {"organism": organism, "sampling": SAMPLING, "n_genes": 5}
    both = generate_cells(session, LABELS[:2], n=4, candidates=3, **options)
    alone = generate_cells(session, LABELS[1:2], n=2, first=2, candidates=3, **options)
    assert [answer.genes for answer in both.answers[6:]] == [answer.genes for answer in alone.answers]
    assert both.names[6:] == alone.names
    plain = generate_cells(session, LABELS[:2], n=4, **options)
    differ = [x.genes != y.genes for x, y in zip(both.answers, plain.answers, strict=True)]
    assert 0 < sum(differ) < len(differ), "the first candidate is the cell that is drawn without others"


def test_candidates_need_labels() -> None:
    session, organism = generation_session(GENES, {"model": fake(labels=None), "progress": False})
    with pytest.raises(ValueError, match="has no list of labels"):
        generate_cells(session, ["B cell"], n=1, organism=organism, sampling=SAMPLING, n_genes=5, candidates=2)
