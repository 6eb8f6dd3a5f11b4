"""Menu of backends: one file each, with a function load(model, **options)."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from cell2sen.backend import Backend
from cell2sen.model import Model


def names() -> list[str]:
    """Names of the backends in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def check_device(device: str, backend: str = "transformers") -> None:
    """Raise an error if this machine has no such device, before anything is loaded.

    Raises
    ------
    ValueError
        There is no such device, or no such backend; lists the available ones.
    """
    if backend not in names():
        raise ValueError(f"no backend {backend!r}; available: {names()}")
    if device in ("auto", "cpu"):
        return
    check = getattr(importlib.import_module(f"cell2sen.backends.{backend}"), "check_device", None)
    if check is not None:
        check(device)


def load(model: Model, backend: str = "transformers", **options: Any) -> Backend:
    """Backend of this name with `model`. `options` (device, batch size, …) change the speed, never the numbers.

    Raises
    ------
    ValueError
        No such backend; lists the available ones.
    """
    check_device(options.get("device", "auto"), backend)
    module = importlib.import_module(f"cell2sen.backends.{backend}")
    loaded: Backend = module.load(model, **options)
    return loaded
