"""Pairs of samples: labels of each cell, cells as answers, texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cells import cells

from cell2sen import tasks
from cell2sen.sentences.sentences import Sentences
from cell2sen.training.config.data import Augmentation, LabelColumn, TrainingFile
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.pair import Pair, PairOfCells
from cell2sen.training.examples.pairs import pairs
from cell2sen.training.examples.sample_pairs import as_line

N = 90
COLUMNS = {
    "sample": "donor",
    "tissue": "tissue",
    "abstract": "study",
    "caption": "text",
    "summary": "study",
    "question": "question",
    "answer": "text",
}


@pytest.fixture
def donors(tmp_path: Path) -> TrainingCells:
    """Three donors with a tissue, a text and a study each; every ninth cell has no type."""
    adata = cells(N)
    adata.obs["donor"] = [f"d{row % 3}" for row in range(N)]
    adata.obs["tissue"] = [f"tissue {row % 3}" for row in range(N)]
    adata.obs["study"] = [f"Study {row % 3}:\n results!" for row in range(N)]
    adata.obs["text"] = [f"text  {row % 3}" for row in range(N)]
    adata.obs["question"] = [f"What is {row % 2}?" for row in range(N)]
    adata.obs["type"] = [None if row % 9 == 0 else f"type {row % 5}" for row in range(N)]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    file = TrainingFile(
        file="cells.h5ad",
        tasks=dict.fromkeys([name for name in tasks.names() if tasks.load(name).cells], 1),
        cell_type=LabelColumn(column="type"),
        columns=COLUMNS,
    )
    return TrainingCells(file, tmp_path, "upper")


def drawn(donors: TrainingCells, name: str, **changes: Any) -> list[Pair]:
    settings: Any = {"draw": 0, "held_out": False, "augmentation": Augmentation(), "seed": 3, **changes}
    object.__setattr__(donors.data, "tasks", {name: 1})
    return list(pairs(donors, {name: tasks.load(name)}, lengths={name: 7}, **settings))


def rows_of(donors: TrainingCells, pair: Pair) -> list[int]:
    return [donors.names.index(str(genes.cell)) for genes in pair.prompt.lists]


def test_labels_of_each_cell(donors: TrainingCells) -> None:
    found = drawn(donors, "sample_cell_types")
    assert found
    for pair in found:
        rows = rows_of(donors, pair)
        assert len(set(donors.obs["donor"].iloc[rows])) == 1
        types = donors.obs["type"].iloc[rows]
        assert pair.completion == "".join(f"\nCell {number}: {name}." for number, name in enumerate(types, 1))
        assert tasks.load("sample_cell_types").parse(pair.completion) == tuple(types)


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("sample_from_tissue", "The tissue of these cells is: tissue "),
        ("sample_from_types", "The types of these cells are:\nCell 1: type "),
        ("sample_from_abstract", "This is the abstract of a study of Homo sapiens cells: Study "),
        ("write_sample", "strongest first.\nCell sentences:"),
    ],
)
def test_cells_as_answers(donors: TrainingCells, name: str, begins: str) -> None:
    found = drawn(donors, name)
    assert found
    texts = {tuple(words): row for row, words in enumerate(donors.sentences(0, Augmentation(), 3).gene_names())}
    sizes = set()
    for pair in found:
        assert begins in pair.prompt.text
        parsed = tasks.load(name).parse(pair.completion, donors.symbols)
        lengths = {len(sentence.genes) for sentence in parsed}
        assert lengths == {pair.prompt.answer_genes}
        assert max(lengths) <= 7
        rows = [
            next(row for words, row in texts.items() if words[: len(sentence.genes)] == sentence.genes)
            for sentence in parsed
        ]
        assert len(set(donors.obs["donor"].iloc[rows])) == 1
        assert f" {len(rows)} " in pair.prompt.text
        if "from_types" in name:
            lines = [f"Cell {number}: {donors.obs['type'].iloc[row]}.\n" for number, row in enumerate(rows, 1)]
            assert "".join(lines) in pair.prompt.text
        if name == "sample_from_tissue":
            assert f"is: {donors.obs['tissue'].iloc[rows[0]]}." in pair.prompt.text
        sizes.add(len(rows))
        assert isinstance(pair, PairOfCells)
        prompt, completion = pair.shorter(2)
        assert prompt.text == pair.prompt.text.replace(f"the {pair.prompt.answer_genes} most", "the 2 most")
        assert [sentence.genes for sentence in tasks.load(name).parse(completion, donors.symbols)] == [
            sentence.genes[:2] for sentence in parsed
        ]
    assert min(sizes) >= 1


@pytest.mark.parametrize(
    ("name", "column", "sizes"), [("caption", "text", {2}), ("interpret", "study", None), ("ask", "text", None)]
)
def test_texts(donors: TrainingCells, name: str, column: str, sizes: set[int] | None) -> None:
    found = drawn(donors, name)
    assert found
    seen: list[int] = []
    for pair in found:
        rows = rows_of(donors, pair)
        assert len(set(donors.obs["donor"].iloc[rows])) == 1
        assert pair.completion == f" {as_line(donors.obs[column].iloc[rows[0]])}"
        assert sizes is None or {len(rows)} == sizes
        if name == "ask":
            [question] = set(donors.obs["question"].iloc[rows])
            assert f"Question: {question}\nAnswer:" in pair.prompt.text
        seen += rows
    assert len(seen) == len(set(seen))


def test_a_task_may_have_samples_of_its_own(donors: TrainingCells) -> None:
    object.__setattr__(donors.data, "columns", {**COLUMNS, "ask_sample": "question"})
    for pair in drawn(donors, "ask"):
        assert len(set(donors.obs["question"].iloc[rows_of(donors, pair)])) == 1
    assert {donors.obs["donor"].iloc[rows_of(donors, pair)[0]] for pair in drawn(donors, "caption")} == {
        "d0",
        "d1",
        "d2",
    }


def test_draws_use_several_columns_in_turn(donors: TrainingCells) -> None:
    for number in range(3):
        donors.obs[f"q_{number}"], donors.obs[f"a_{number}"] = f"Question {number}?", f"Answer {number}."
    object.__setattr__(donors.data, "columns", {**COLUMNS, "question": "q_*", "answer": "a_*"})
    for draw in range(4):
        for pair in drawn(donors, "ask", draw=draw):
            assert f"Question: Question {draw % 3}?" in pair.prompt.text
            assert pair.completion == f" Answer {draw % 3}."
    object.__setattr__(donors.data, "columns", {**COLUMNS, "question": "x_*"})
    with pytest.raises(KeyError, match=r"has no column 'x_\*'"):
        drawn(donors, "ask")


def test_one_line_with_a_full_stop() -> None:
    assert [as_line(text) for text in ("a\n b", "a.", "Why? ", "No !")] == ["a b.", "a.", "Why?", "No !"]
    assert [as_line(text, ends=False) for text in ("a\n b", "a.", "Why?")] == ["a b", "a", "Why?"]


def test_other_answers_are_refused(donors: TrainingCells) -> None:
    from dataclasses import replace

    task = replace(tasks.load("caption"), answer="genes")
    object.__setattr__(donors.data, "tasks", {"caption": 1})
    with pytest.raises(ValueError, match="cannot be learned from cells"):
        list(
            pairs(
                donors,
                {"caption": task},
                lengths={"caption": 3},
                draw=0,
                held_out=False,
                augmentation=Augmentation(),
                seed=0,
            )
        )


@pytest.mark.parametrize("name", ["sample_cell_types", "caption", "sample_from_types"])
def test_gene_lists_are_made_once_for_all_samples(
    donors: TrainingCells, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list for each cell of the file and each sample would take a time that grows with their product."""
    calls, made = [], Sentences.gene_lists
    monkeypatch.setattr(Sentences, "gene_lists", lambda *given: calls.append(name) or made(*given))
    assert len(drawn(donors, name)) > 2
    assert calls == [name]
