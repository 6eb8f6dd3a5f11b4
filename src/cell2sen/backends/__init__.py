"""Backends: one file each, its name is the name that users type; each defines ``load(model, **options)``."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from cell2sen.backend import Backend
from cell2sen.model import Model


def names() -> list[str]:
    """The backends in the folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(model: Model, backend: str = "transformers", **options: Any) -> Backend:
    """Load `model` into a backend by name. `options` (device, batch size, …) change the speed, never the numbers.

    Raises
    ------
    ValueError
        No such backend; lists those there are.
    """
    if backend not in names():
        raise ValueError(f"no backend {backend!r}; available: {names()}")
    module = importlib.import_module(f"cell2sen.backends.{backend}")
    loaded: Backend = module.load(model, **options)
    return loaded
