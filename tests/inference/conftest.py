from __future__ import annotations

import pytest
import tiny
from cells import fake

from cell2sen.backend import Backend


@pytest.fixture(params=["fake", "transformers"])
def any_backend(request: pytest.FixtureRequest) -> Backend:
    """A backend without weights, and one with a tiny random model."""
    return fake() if request.param == "fake" else tiny.backend("gpt_neox", "bytes")
