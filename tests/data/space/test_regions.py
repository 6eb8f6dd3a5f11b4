"""Held-out regions: share, margin, independence of the order."""

from __future__ import annotations

import numpy as np
import pytest

from cell2sen.data.space.neighbourhoods import find_neighbourhoods
from cell2sen.data.space.regions import held_out_regions


def points(n: int = 1500) -> np.ndarray:
    return np.random.default_rng(1).random((n, 2)) * [30, 20]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("options", [{"radius": 1.0}, {"k": 5}])
def test_no_neighbourhood_has_cells_of_both_sides(share: float, options: dict) -> None:
    graph = find_neighbourhoods(points(), **options)
    regions = held_out_regions(points(), graph, share=share, seed=3)
    training = ~regions.held_out & ~regions.margin
    assert abs(regions.held_out.mean() - share) < 0.08
    links = graph.connectivities.toarray() > 0
    assert not links[np.ix_(training, regions.held_out)].any()
    assert not links[np.ix_(regions.held_out, training)].any()
    assert not (regions.held_out & regions.margin).any()
    if "radius" in options:  # the margin is as wide as the radius
        distances = np.linalg.norm(points()[:, None] - points()[None], axis=2)[:, regions.held_out].min(axis=1)
        np.testing.assert_array_equal(regions.margin, ~regions.held_out & (distances <= 1.0))


def test_the_order_of_cells_does_not_matter() -> None:
    order = np.random.default_rng(0).permutation(1500)
    first = held_out_regions(points(), find_neighbourhoods(points(), radius=1), share=0.2)
    second = held_out_regions(points()[order], find_neighbourhoods(points()[order], radius=1), share=0.2)
    np.testing.assert_array_equal(first.held_out[order], second.held_out)
    np.testing.assert_array_equal(first.margin[order], second.margin)
    other = held_out_regions(points(), find_neighbourhoods(points(), radius=1), share=0.2, seed=1)
    assert (other.held_out != first.held_out).any()


def test_each_section_has_regions_and_cells_without_one_are_on_no_side() -> None:
    sections = np.array(["a", "b", None] * 500, dtype=object)
    graph = find_neighbourhoods(points(), radius=1, sections=sections)
    regions = held_out_regions(points(), graph, share=0.2, sections=sections)
    for name in "ab":
        assert 0.1 < regions.held_out[sections == name].mean() < 0.3
    without = np.array([name is None for name in sections])
    assert regions.margin[without].all()


def test_nothing_held_out() -> None:
    regions = held_out_regions(points(), find_neighbourhoods(points(), radius=1), share=0)
    assert not regions.held_out.any()
    assert not regions.margin.any()


def test_share_is_refused() -> None:
    with pytest.raises(ValueError, match="found 1"):
        held_out_regions(points(), find_neighbourhoods(points(), radius=1), share=1)
