"""Products of linear layers in float32 on CPUs where oneDNN, which PyTorch has on board, is faster than MKL.

PyTorch gives float32 to MKL. On an AMD CPU oneDNN took a seventh to a quarter less time for long texts, and half or
less for the few rows that decoding reads of a large head (``docs/benchmarks.md``); bfloat16 goes to oneDNN anyway.
"""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

#: Weights of a layer from which on oneDNN is worth its calls, which take 10 µs longer. Not told by the number of rows:
#: a row's result would depend on its neighbours.
_LEAST = 2**18


def linear(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """:func:`torch.nn.functional.linear`, by oneDNN where that is faster; equal but for rounding."""
    if (
        weight.dtype == torch.float32
        and rows.dtype == torch.float32
        and weight.device.type == "cpu"
        and weight.numel() >= _LEAST
        and (bias is None or bias.is_contiguous())
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and onednn_is_faster()
    ):
        product: torch.Tensor = _onednn()(rows, weight, bias, "none", [], "")
        return product
    return functional.linear(rows, weight, bias)


def use(network: torch.nn.Module) -> None:
    """Let the plain linear layers of a network compute with :func:`linear`; weights and names stay as they are."""
    for module in network.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = _Linear


def is_plain(module: torch.nn.Module) -> bool:
    """Whether a layer is a product and a bias, and nothing that bitsandbytes or peft have put in its place."""
    return type(module) in (torch.nn.Linear, _Linear)


class _Linear(torch.nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return linear(input, self.weight, self.bias)


@lru_cache(maxsize=1)
def onednn_is_faster() -> bool:
    """Whether this is an AMD CPU and PyTorch has both libraries. A function of the machine, so that runs repeat."""
    backends: Any = torch.backends  # typed in parts only
    both = backends.mkl.is_available() and backends.mkldnn.is_available()
    if not both or "AuthenticAMD" not in _vendor():
        return False
    # An operation without a documented name; where it has gone, or counts wrongly, MKL does the work.
    try:
        product = _onednn()(torch.ones(2, 3), torch.full((4, 3), 2.0), torch.ones(4), "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(product, torch.full((2, 4), 7.0))


def _onednn() -> Any:
    return torch.ops.mkldnn._linear_pointwise


def _vendor() -> str:
    cpus = Path("/proc/cpuinfo")
    text = cpus.read_text(encoding="utf-8", errors="replace")[:1000] if cpus.is_file() else ""
    return text + platform.processor()
