"""The table of known checkpoints, beside the published numbers of parameters."""

from __future__ import annotations

import pytest

from cell2sen.checkpoints.table import SHAPES, known_checkpoints
from cell2sen.engine.cost import n_parameters
from cell2sen.model import KNOWN


def test_sizes_follow_from_the_shapes() -> None:
    # Parameters as the papers of Pythia and Gemma 2 state them: layers, and embeddings (Gemma: tied).
    published = {"pythia-410m": 302e6, "pythia-1b": 806e6, "gemma-2-2b": 2.02e9, "gemma-2-27b": 26.05e9}
    for name, number in published.items():
        assert n_parameters(SHAPES[name])[0] == pytest.approx(number, rel=0.01)
    assert n_parameters(SHAPES["gemma-2-27b"])[1] == pytest.approx(1.18e9, rel=0.01)


def test_all_known_checkpoints_have_a_row() -> None:
    rows = known_checkpoints()
    assert [row["name"] for row in rows] == list(KNOWN)
    assert all(row["architecture"] in ("gpt_neox", "gemma2") for row in rows)
    assert all(row["memory_gb"] > row["gb"] > 0 for row in rows)
    assert all(row["memory_4bit_gb"] < row["memory_gb"] for row in rows if row["name"] != "nano")
    largest = rows[-1]
    assert largest["gb"] == pytest.approx(54.5, abs=0.5)
    assert largest["where"] == "cell2sen fetch gemma-2-27b"
