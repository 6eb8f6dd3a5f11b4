from __future__ import annotations

import pytest

from cell2sen.inference.responses.control_cells import perturbation_per_cell


def test_perturbation_per_cell() -> None:
    assert perturbation_per_cell("x", 2) == ("x", "x")
    assert perturbation_per_cell(["x", None, float("nan"), " "], 4) == ("x", None, None, None)  # type: ignore[list-item]
    for wrong in ("", [None, None]):
        with pytest.raises(ValueError, match="no cell has a perturbation"):
            perturbation_per_cell(wrong, 2)
