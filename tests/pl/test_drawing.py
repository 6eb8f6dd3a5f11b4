from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Text

from cell2sen.pl import drawing


def test_new_and_given_axes() -> None:
    axes = drawing.new_axes(None, (3, 2))
    assert axes.figure.get_size_inches().tolist() == [3, 2]
    assert drawing.new_axes(axes, (9, 9)) is axes
    many = drawing.panels(None, 5, (2, 1), n_columns=3)
    assert len(many) == len(many[0].figure.axes) == 5
    assert many[0].figure.get_size_inches().tolist() == [6, 2]
    assert drawing.panels(many[:2], 2, (1, 1)) == many[:2]
    assert drawing.panels(axes, 1, (1, 1)) == [axes]
    with pytest.raises(ValueError, match=r"3 panels need a list of 3 axes \(ax=\), found 1"):
        drawing.panels(axes, 3, (1, 1))


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF")])
def test_saved_files(tmp_path: Path, name: str, start: bytes) -> None:
    axes = drawing.new_axes(None, (1, 1))
    drawing.finish(axes, new=True, show=None, save=tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert not plt.get_fignums()  # closed, as it is saved


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    axes = drawing.new_axes(None, (1, 1))
    with pytest.raises(ValueError, match=r"a\.doc must end in a format of figures: .*\.png"):
        drawing.finish(axes, new=True, show=None, save=tmp_path / "a.doc")
    with pytest.raises(ValueError, match="save= takes a path"):
        drawing.finish(axes, new=True, show=None, save=True)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        drawing.finish(axes, new=True, show=None, save=tmp_path / "no" / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("new", "show", "save", "backend", "shown"),
    [
        (True, None, False, "qtagg", True),
        (True, None, False, "agg", False),
        (True, None, False, "module://matplotlib_inline.backend_inline", False),
        (False, None, False, "qtagg", False),
        (True, None, True, "qtagg", False),
        (True, False, False, "qtagg", False),
        (False, True, True, "agg", True),
    ],
)
def test_when_figures_are_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new: bool, show: Any, save: bool, backend: str, shown: bool
) -> None:
    axes, calls = drawing.new_axes(None, (1, 1)), []
    with monkeypatch.context() as patch:
        patch.setattr(plt, "get_backend", lambda: backend)
        patch.setattr(plt, "show", lambda: calls.append(1))
        assert drawing.finish(axes, new=new, show=show, save=tmp_path / "a.png" if save else None) is axes
    assert bool(calls) == shown


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.pyplot", None)
        patch.delattr(matplotlib, "pyplot")
        with pytest.raises(ImportError, match=r"cell2sen\[plot\]"):
            drawing.pyplot()


def test_heat_map_has_numbers_where_there_is_room() -> None:
    axes = drawing.new_axes(None, (3, 3))
    values = np.array([[1.0, 0.25], [np.nan, 0.001]])
    image = drawing.heat_map(axes, values, ["a", "b"], ["c", "d"])
    assert [text.get_text() for text in axes.texts] == ["1", ".25"]
    assert np.ma.getmaskarray(image.get_array()).tolist() == [[False, False], [True, False]]
    large = drawing.new_axes(None, (3, 3))
    drawing.heat_map(large, np.ones((40, 2)), [str(n) for n in range(40)], ["c", "d"])
    assert not large.texts
    assert large.get_yticklabels()[0].get_fontsize() == drawing.SMALL_FONT


def test_long_names_lose_their_middle() -> None:
    assert drawing.shorten("a" * 38) == "a" * 38
    assert drawing.shorten("effector memory CD8-positive, alpha-beta T cell", 20) == "effector m…ta T cell"


def overlap(boxes: list[Any]) -> bool:
    return any(one.overlaps(other) for at, one in enumerate(boxes) for other in boxes[:at])


def test_placed_names_do_not_overlap() -> None:
    axes = drawing.new_axes(None, (3, 3))
    x, y = np.random.default_rng(0).normal(size=(2, 200)) / 50
    axes.scatter(x, y)
    extremes = np.argsort(-np.hypot(x, y))[:20].tolist()
    written = drawing.place_names(axes, x, y, [f"GENE{n}" for n in range(200)], extremes, 12)
    assert 3 < len(written) <= 12
    axes.figure.canvas.draw()
    points = axes.transData.transform(np.column_stack([x, y])[extremes])
    for text in axes.texts:
        box = Text.get_window_extent(text)
        assert not ((points > (box.x0, box.y0)) & (points < (box.x1, box.y1))).all(axis=1).any()
    assert len(axes.texts) == len(written)
    assert not overlap([text.get_window_extent() for text in axes.texts])


@pytest.mark.parametrize("side", ["left", "right"])
def test_listed_names_are_beside_the_curve(side: Any) -> None:
    axes = drawing.new_axes(None, (4, 3))
    x, y = np.arange(100.0), -np.sort(-np.random.default_rng(0).normal(size=100))
    axes.scatter(x, y)
    order = list(range(10)) if side == "right" else list(range(99, 89, -1))
    drawing.list_names(axes, x, y, [f"GENE{n}" for n in range(100)], order, side=side, edge=y)
    names = [text.get_text() for text in axes.texts]
    assert names == [f"GENE{n}" for n in order[: len(names)]]
    assert len(names) >= 3
    axes.figure.canvas.draw()
    points = axes.transData.transform(np.column_stack([x, y]))
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the lines
    for box in boxes:
        assert not ((points > (box.x0, box.y0)) & (points < (box.x1, box.y1))).all(axis=1).any()
    assert not overlap([box.shrunk(1, 0.9) for box in boxes])
