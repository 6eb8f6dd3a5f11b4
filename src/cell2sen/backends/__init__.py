"""Menu of backends: one file each, with a function load(model, **options); more from installed packages.

A package adds a backend by an entry point of the group ``cell2sen.backends`` that names a module with such a function.
A file of this folder goes before an entry point of the same name.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
from typing import Any

from cell2sen.backend import Backend
from cell2sen.model import Model

#: Group of the entry points by which packages add backends.
GROUP = "cell2sen.backends"


def names() -> list[str]:
    """Names of the backends in this folder and in installed packages."""
    return sorted({*_own(), *(point.name for point in importlib.metadata.entry_points(group=GROUP))})


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
    check = getattr(_module(backend), "check_device", None)
    if check is not None:
        check(device)


def load(model: Model, backend: str = "transformers", **options: Any) -> Backend:
    """Backend of this name with `model`. `options` (device, batch size, …) change the speed, never the numbers.

    Raises
    ------
    ValueError
        No such backend; lists the available ones. A `url` for a backend that runs in this process.
    ImportError
        The package that adds the backend cannot be imported.
    """
    check_device(options.get("device", "auto"), backend)
    module = _module(backend)
    if "url" in options and "url" not in inspect.signature(module.load).parameters:
        raise ValueError(f"the backend {backend} runs in this process and takes no url; use the backend openai or vllm")
    loaded: Backend = module.load(model, **options)
    return loaded


def _own() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


def _module(backend: str) -> Any:
    """Module of a backend, of this folder or of the first installed package that has it."""
    if backend in _own():
        return importlib.import_module(f"cell2sen.backends.{backend}")
    point = min(importlib.metadata.entry_points(group=GROUP, name=backend), key=lambda point: point.value)
    try:
        return point.load()
    except Exception as error:
        package = "" if point.dist is None else f" of the package {point.dist.name}"
        raise ImportError(f"the backend {backend!r}{package} cannot be loaded from {point.value}: {error}") from error
