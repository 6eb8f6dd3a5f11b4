"""Requests as vLLM hands them to logits processors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def params(**arguments: Any) -> SimpleNamespace:
    """Sampling parameters with these extra arguments."""
    return SimpleNamespace(extra_args=arguments or None)
