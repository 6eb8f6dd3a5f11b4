from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cell2sen.inference.screen.parts import Parts


def test_parts_are_computed_once(tmp_path: Path) -> None:
    calls = []

    def compute() -> np.ndarray:
        calls.append(1)
        return np.arange(3.0)

    for _ in range(2):
        assert Parts(tmp_path / "parts", ["a", np.ones(2)]).get(["x", 1], compute).tolist() == [0, 1, 2]
    assert len(calls) == 1
    Parts(tmp_path / "parts", ["a", np.zeros(2)]).get(["x", 1], compute)
    Parts(tmp_path / "parts", ["a", np.ones(2)]).get(["x", 2], compute)
    Parts(None, []).get(["x", 1], compute)
    assert len(calls) == 4


def test_a_failed_part_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Parts(tmp_path, []).get(["x"], lambda: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        Parts(tmp_path / "file", [])
