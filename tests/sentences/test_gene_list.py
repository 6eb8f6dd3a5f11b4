"""GeneList: behaves as the tuple of its symbols."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cell2sen import tasks
from cell2sen.prompt import Prompt
from cell2sen.sentences.gene_list import GeneList

SYMBOLS = np.array(["CD4", "B2M", "LYZ", "CD4", "HLA-DRA"], dtype=object)
numbers = st.lists(st.integers(0, len(SYMBOLS) - 1), max_size=6)


def made(ids: list[int]) -> tuple[GeneList, tuple[str, ...]]:
    """A gene list, and the tuple of its symbols."""
    return GeneList(np.array(ids, dtype=np.int32), SYMBOLS), tuple(SYMBOLS[gene] for gene in ids)


@given(numbers, numbers, st.integers(-7, 7), st.integers(-7, 7))
def test_as_the_tuple(ids: list[int], other_ids: list[int], start: int, stop: int) -> None:
    (genes, symbols), (other_genes, other_symbols) = made(ids), made(other_ids)
    assert genes == symbols
    assert symbols == genes
    assert (genes == other_genes) == (symbols == other_symbols)
    assert (genes != other_symbols) == (symbols != other_symbols)
    assert genes != list(symbols)
    assert hash(genes) == hash(symbols)
    assert repr(genes) == repr(symbols)
    assert list(genes) == list(symbols)
    assert bool(genes) == bool(symbols)
    assert len(genes) == len(symbols)
    part = genes[start:stop]
    assert isinstance(part, GeneList)
    assert part == symbols[start:stop]
    assert genes[::-1] == symbols[::-1]
    assert " ".join(genes) == " ".join(symbols)
    assert copy.deepcopy(genes) == pickle.loads(pickle.dumps(genes)) == symbols  # noqa: S301


def test_one_gene() -> None:
    genes, symbols = made([4, 0])
    assert type(genes[-1]) is str
    assert (genes[0], genes[-1]) == (symbols[0], symbols[-1])
    with pytest.raises(IndexError):
        genes[2]


@given(numbers)
def test_prompts_are_the_same(ids: list[int]) -> None:
    genes, symbols = made(ids)
    prompt, expected = (
        Prompt.of_cell("{n_genes} genes: ", genes=each, after=".", answer_genes=2) for each in (genes, symbols)
    )
    assert prompt == expected
    assert hash(prompt) == hash(expected)
    assert (prompt.text, prompt.spans) == (expected.text, expected.spans)
    assert prompt.shorten(2) == expected.shorten(2)


def test_a_task_keeps_the_gene_list() -> None:
    genes, symbols = made([1, 2, 0])
    task = tasks.load("embed")
    prompt = task.prompt(genes=genes)
    assert prompt.genes is genes
    assert prompt == task.prompt(genes=list(symbols))
