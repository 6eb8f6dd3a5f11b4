"""Fixtures shared by all tests."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}")
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a tiny random model with metadata."""
    from cells import GENES, checkpoint

    return str(checkpoint(tmp_path_factory.mktemp("models") / "tiny", genes=GENES))


@pytest.fixture(autouse=True)
def restored_log_level():
    """The command line sets the package's log level; the next test starts as before."""
    logger = logging.getLogger("cell2sen")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def restored_figure_settings():
    """A page or tutorial sets the size of its figures and leaves them open; the next test starts as before."""
    matplotlib = sys.modules.get("matplotlib")
    settings = dict(matplotlib.rcParams) if matplotlib else {}
    yield
    if settings and dict(matplotlib.rcParams) != settings:
        matplotlib.rcParams.update(settings)
    if "matplotlib.pyplot" in sys.modules:  # matplotlib warns of more than 20 open figures, and a warning is an error
        sys.modules["matplotlib.pyplot"].close("all")
