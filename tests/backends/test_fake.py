"""The fake backend passes the contract tests, and needs no torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from backend_contract import BackendContract, Make
from tiny import CONTEXT

from cell2sen import backends
from cell2sen.backend import Sampling
from cell2sen.model import Model
from cell2sen.prompt import Prompt

MODEL = Model(name="fake", path="fake")


class TestFake(BackendContract):
    @pytest.fixture
    def make(self) -> Make:
        return lambda **options: backends.load(MODEL, "fake", context=CONTEXT, **options)


def test_cells_that_share_genes_are_similar() -> None:
    genes = [f"G{number}" for number in range(60)]
    first, second, third = (
        Prompt.of_cell("", genes=tuple(symbols)) for symbols in (genes[:30], genes[5:35], genes[30:])
    )
    a, b, c = backends.load(MODEL, "fake").embed([first, second, third]).vectors
    assert np.corrcoef(a, b)[0, 1] > 0.5 > np.corrcoef(a, c)[0, 1]


def test_needs_no_torch() -> None:
    code = "import sys, cell2sen.backends.fake; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_accepts_the_options_of_real_backends() -> None:
    backend = backends.load(MODEL, "fake", device="cuda", batch_size=3, progress=True, offline=False)
    assert len(backend.generate([Prompt.of_cell("x", answer_genes=2)], Sampling(), genes=["A", "B"])[0].split()) == 2
