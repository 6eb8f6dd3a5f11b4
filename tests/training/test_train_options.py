"""train() with a file and options instead of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import training_cells

import cell2sen as c2s
from cell2sen import training
from cell2sen.training.train import _configuration


def test_the_same_function_under_three_names() -> None:
    assert c2s.train is c2s.tl.train is training.train
    with pytest.raises(AttributeError, match=r"'cell2sen\.tl' has no attribute 'trains'"):
        c2s.tl.trains  # noqa: B018


def test_a_file_with_options(tmp_path: Path) -> None:
    path = training_cells.write(tmp_path / "a.h5ad", 60)
    config, base = _configuration(path, None, {"cell_type": "cell_type", "epochs": 2}, ["seed=7"])
    assert base == tmp_path
    assert config.data.files[0].tasks == {"annotate": 2}
    assert (config.model.start, config.seed) == ("nano", 7)
    assert _configuration(config, None, {}, ()) == (config, ".")
    assert _configuration(config, "folder", {}, ()) == (config, "folder")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (object(), {}, "needs a configuration or the name of a file, found object: write cells to a file"),
        ("a.h5ad", {"celltype": "x"}, "there is no option 'celltype' of a training"),
    ],
)
def test_mistakes(tmp_path: Path, source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        c2s.train(source, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_options_beside_a_configuration() -> None:
    config = training.from_mapping({"model": {"start": "nano"}, "data": {"files": [{"file": "a.h5ad", "tasks": {}}]}})
    with pytest.raises(TypeError, match=r"options belong to a file instead of a configuration, found \['epochs'\]"):
        c2s.train(config, "out", epochs=3)
