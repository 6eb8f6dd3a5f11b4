"""Samples of cells in space: answers are right, balanced, and independent of the order of cells."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from sections import section

from cell2sen.data.space.neighbourhoods import find_neighbourhoods
from cell2sen.data.space.samples import SpaceCells, draw_samples

SECTION = section()


def space_cells(order: Any = None, usable: Any = None, **options: Any) -> SpaceCells:
    rows = np.arange(81) if order is None else order
    graph = find_neighbourhoods(SECTION.obsm["spatial"][rows], **(options or {"radius": 1.6}))
    return SpaceCells(
        names=SECTION.obs_names[rows].tolist(),
        neighbourhoods=graph,
        usable=np.ones(81, dtype=bool) if usable is None else usable[rows],
        niches=np.asarray(SECTION.obs["layer"].astype(object))[rows],
    )


@pytest.mark.parametrize("n_cells", [2, 5, 20])
@pytest.mark.parametrize("kind", ["same_neighbourhood", "same_niche"])
def test_answers_are_right_and_balanced(kind: Any, n_cells: int) -> None:
    cells = space_cells()
    assert cells.niches is not None
    samples = draw_samples(kind, cells, n_cells=n_cells)
    assert Counter(sample.answer for sample in samples) == {"yes": 81, "no": 81}
    for yes, no in zip(samples[::2], samples[1::2], strict=True):
        assert (yes.answer, no.answer) == ("yes", "no")
        assert yes.cells[0] == no.cells[0]
        assert 2 <= len(yes.cells) == len(no.cells) <= n_cells
        for sample in (yes, no):
            centre, others = sample.cells[0], sample.cells[1:]
            assert len(set(sample.cells.tolist())) == len(sample.cells)
            same = (
                np.isin(others, cells.neighbourhoods.of(centre))
                if kind == "same_neighbourhood"
                else cells.niches[others] == cells.niches[centre]
            )
            assert same.all() if sample.answer == "yes" else not same.any()


def test_a_further_cell_is_a_neighbour_that_the_prompt_lacks() -> None:
    cells = space_cells()
    samples = draw_samples("neighbour", cells, n_cells=4)
    assert [sample.cells[0] for sample in samples] == list(range(81))
    for sample in samples:
        around = set(cells.neighbourhoods.of(int(sample.cells[0])).tolist())
        assert {sample.target, *sample.cells[1:].tolist()} <= around
        assert sample.target not in sample.cells
        assert len(sample.cells) == min(4, len(around))


@pytest.mark.parametrize("kind", ["same_neighbourhood", "same_niche", "neighbour"])
@pytest.mark.parametrize("options", [{"radius": 1.6}, {"k": 3}])
def test_the_order_of_cells_does_not_matter(kind: Any, options: dict) -> None:
    def named(order: Any) -> set[Any]:
        names = SECTION.obs_names[order]
        found = draw_samples(kind, space_cells(order, **options), n_cells=4, seed=7)
        return {
            (*names[sample.cells], sample.answer, None if sample.target is None else names[sample.target])
            for sample in found
        }

    assert named(np.arange(81)) == named(np.random.default_rng(0).permutation(81))


def test_only_usable_cells() -> None:
    usable = np.random.default_rng(0).random(81) < 0.6
    for kind in ("same_neighbourhood", "same_niche", "neighbour"):
        for sample in draw_samples(kind, space_cells(usable=usable), n_cells=5):
            assert usable[sample.cells].all()
            assert sample.target is None or usable[sample.target]


def test_centres() -> None:
    found = draw_samples("same_neighbourhood", space_cells(), n_cells=5, centres=np.array([3, 40]))
    assert [int(sample.cells[0]) for sample in found] == [3, 3, 40, 40]
    whole = draw_samples("same_neighbourhood", space_cells(), n_cells=5)
    assert found[0].cells.tolist() == whole[6].cells.tolist()  # a cell's draw is its own


def test_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 cells, found n_cells=1"):
        draw_samples("same_neighbourhood", space_cells(), n_cells=1)
    with pytest.raises(ValueError, match="no cells outside of them"):
        draw_samples("same_neighbourhood", space_cells(radius=100), n_cells=3)
    cells = space_cells()
    with pytest.raises(ValueError, match="need the niche of the cells"):
        draw_samples(
            "same_niche",
            SpaceCells(names=cells.names, neighbourhoods=cells.neighbourhoods, usable=cells.usable),
            n_cells=3,
        )
