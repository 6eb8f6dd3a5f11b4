"""A GeneList behaves like the tuple of its symbols."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cell2sen import tasks
from cell2sen.sentences.gene_list import GeneList
from cell2sen.task import Prompt

SYMBOLS = np.array(["CD4", "B2M", "LYZ", "CD4", "HLA-DRA"], dtype=object)
gene_ids = st.lists(st.integers(0, len(SYMBOLS) - 1), max_size=6)


def list_and_tuple(ids: list[int]) -> tuple[GeneList, tuple[str, ...]]:
    """A GeneList and the tuple of its symbols."""
    return GeneList(np.array(ids, dtype=np.int32), SYMBOLS), tuple(SYMBOLS[gene] for gene in ids)


@given(gene_ids, gene_ids, st.integers(-7, 7), st.integers(-7, 7))
def test_equals_the_tuple(left: list[int], right: list[int], start: int, stop: int) -> None:
    (genes, names), (other_genes, other_names) = list_and_tuple(left), list_and_tuple(right)
    assert genes == names
    assert names == genes
    assert (genes == other_genes) == (names == other_names)
    assert (genes != other_names) == (names != other_names)
    assert genes != list(names)
    assert hash(genes) == hash(names)
    assert repr(genes) == repr(names)
    assert list(genes) == list(names)
    assert bool(genes) == bool(names)
    assert len(genes) == len(names)
    part = genes[start:stop]
    assert isinstance(part, GeneList)
    assert part == names[start:stop]
    assert genes[::-1] == names[::-1]
    assert " ".join(genes) == " ".join(names)
    assert copy.deepcopy(genes) == pickle.loads(pickle.dumps(genes)) == names  # noqa: S301


def test_one_gene() -> None:
    genes, names = list_and_tuple([4, 0])
    assert type(genes[-1]) is str
    assert (genes[0], genes[-1]) == (names[0], names[-1])
    with pytest.raises(IndexError):
        genes[2]


@given(gene_ids)
def test_prompts_are_equal(ids: list[int]) -> None:
    by_id, by_name = (
        Prompt(before="{n_genes} genes: ", genes=genes, after=".", ask=2) for genes in list_and_tuple(ids)
    )
    assert by_id == by_name
    assert hash(by_id) == hash(by_name)
    assert (by_id.text, by_id.spans, by_id.prefix) == (by_name.text, by_name.spans, by_name.prefix)
    assert by_id.shorten(2) == by_name.shorten(2)


def test_a_task_keeps_the_ids() -> None:
    genes, names = list_and_tuple([1, 2, 0])
    task = tasks.load("embed")
    prompt = task.prompt(genes=genes)
    assert prompt.genes is genes
    assert prompt == task.prompt(genes=list(names))
