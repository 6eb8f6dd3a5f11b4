"""Samples: every cell once, none of two groups, independent of order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cell2sen.sentences.samples import draw_samples, split_into_samples


@given(
    sizes=st.lists(st.integers(0, 47), min_size=1, max_size=4),
    n_cells=st.integers(5, 20),
    seed=st.integers(0, 3),
)
def test_every_cell_of_a_large_enough_group_is_in_one_sample(sizes: list[int], n_cells: int, seed: int) -> None:
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    names = [f"cell{row}" for row in range(len(groups))]
    if max(sizes) < 5:
        with pytest.raises(ValueError, match=rf"no group has the 5 cells of a sample; the largest .* {max(sizes)}"):
            split_into_samples(groups, names, n_cells=n_cells, min_cells=5, seed=seed)
        return
    samples = split_into_samples(groups, names, n_cells=n_cells, min_cells=5, seed=seed)
    assert sorted(np.concatenate(samples)) == [row for row, group in enumerate(groups) if sizes[group] >= 5]
    for sample in samples:
        assert len({groups[row] for row in sample}) == 1
        assert 5 <= len(sample) <= max(n_cells, 9)


def test_independent_of_order_and_of_other_groups() -> None:
    groups = ["a"] * 23 + ["b"] * 11 + [None] * 3
    names = [f"cell{row}" for row in range(len(groups))]

    def named(order: list[int], seed: int = 0) -> set[tuple[str, ...]]:
        samples = split_into_samples(
            [groups[row] for row in order], [names[row] for row in order], n_cells=6, min_cells=5, seed=seed
        )
        return {tuple(names[order[row]] for row in sample) for sample in samples}

    order = list(range(len(groups)))
    expected = named(order)
    assert named(order[::-1]) == expected
    assert named(order[:23]) == {sample for sample in expected if int(sample[0][4:]) < 23}
    assert named(order, seed=1) != expected


def test_refused() -> None:
    with pytest.raises(ValueError, match="at least 5 cells, found n_cells=3"):
        split_into_samples(["a"] * 9, list("abcdefghi"), n_cells=3, min_cells=5)
    with pytest.raises(ValueError, match="names must be unique"):
        split_into_samples(["a"] * 9, ["x"] * 9, n_cells=5, min_cells=5)


def test_samples_of_exactly_so_many_cells() -> None:
    names = [f"c{row}" for row in range(13)]
    groups: list[str | None] = ["a"] * 7 + ["b"] * 5 + [None]
    samples = draw_samples(groups, names, n_cells=2, min_cells=2)
    assert [len(sample) for sample in samples] == [2] * 5
    assert len(set(np.concatenate(samples).tolist())) == 10
    assert all(len({groups[row] for row in sample}) == 1 for sample in samples)
    one = draw_samples(groups, names, n_cells=2, min_cells=2, n_samples=1)
    assert [sample.tolist() for sample in one] == [samples[0].tolist(), samples[3].tolist()]
    order = np.random.default_rng(0).permutation(13)
    again = draw_samples([groups[row] for row in order], [names[row] for row in order], n_cells=2, min_cells=2)
    assert {tuple(names[row] for row in sample) for sample in samples} == {
        tuple(names[order[row]] for row in sample) for sample in again
    }
    assert [len(sample) for sample in draw_samples(groups, names, n_cells=4, min_cells=1)] == [4, 3, 4, 1]
    with pytest.raises(ValueError, match="no group has the 8 cells of a sample"):
        draw_samples(groups, names, n_cells=9, min_cells=8)
