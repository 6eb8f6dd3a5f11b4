"""Numbered genes read as the tuple of their symbols."""

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


def made(numbers: list[int]) -> tuple[GeneList, tuple[str, ...]]:
    """The genes and the tuple that they stand for."""
    return GeneList(np.array(numbers, dtype=np.int32), SYMBOLS), tuple(SYMBOLS[number] for number in numbers)


@given(numbers, numbers, st.integers(-7, 7), st.integers(-7, 7))
def test_as_the_tuple(one: list[int], other: list[int], start: int, stop: int) -> None:
    (found, wanted), (second, beside) = made(one), made(other)
    assert found == wanted
    assert wanted == found
    assert (found == second) == (wanted == beside)
    assert (found != beside) == (wanted != beside)
    assert found != list(wanted)
    assert hash(found) == hash(wanted)
    assert repr(found) == repr(wanted)
    assert list(found) == list(wanted)
    assert bool(found) == bool(wanted)
    assert len(found) == len(wanted)
    part = found[start:stop]
    assert isinstance(part, GeneList)
    assert part == wanted[start:stop]
    assert found[::-1] == wanted[::-1]
    assert " ".join(found) == " ".join(wanted)
    assert copy.deepcopy(found) == pickle.loads(pickle.dumps(found)) == wanted  # noqa: S301


def test_one_gene() -> None:
    found, wanted = made([4, 0])
    assert type(found[-1]) is str
    assert (found[0], found[-1]) == (wanted[0], wanted[-1])
    with pytest.raises(IndexError):
        found[2]


@given(numbers)
def test_prompts_are_the_same(some: list[int]) -> None:
    genes, named = made(some)
    found, wanted = (
        Prompt.of_cell("{n_genes} genes: ", genes=each, after=".", answer_genes=2) for each in (genes, named)
    )
    assert found == wanted
    assert hash(found) == hash(wanted)
    assert (found.text, found.spans) == (wanted.text, wanted.spans)
    assert found.shorten(2) == wanted.shorten(2)


def test_a_task_keeps_the_numbers() -> None:
    genes, named = made([1, 2, 0])
    task = tasks.load("embed")
    found = task.prompt(genes=genes)
    assert found.genes is genes
    assert found == task.prompt(genes=list(named))
