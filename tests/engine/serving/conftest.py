"""Fixtures shared by tests of servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from completions_server import FakeServer, serving


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    """A completions server on this machine."""
    with serving(FakeServer()) as running:
        yield running
