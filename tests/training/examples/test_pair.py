"""Pairs whose answer can be written with fewer genes."""

from __future__ import annotations

from cell2sen.prompt import Prompt
from cell2sen.training.examples.pair import Pair, PairOfCells


def test_a_pair_of_cells_is_a_pair() -> None:
    pair = PairOfCells.of("t", lambda n: (Prompt.of_cell(f"{n}:"), " G" * n), 3)
    assert isinstance(pair, Pair)
    task, prompt, completion = pair
    assert (task, prompt.text, completion) == ("t", "3:", " G G G")
    assert pair.shorter(1)[1] == " G"
