"""CPU settings: oneDNN for linear layers, bfloat16, malloc that keeps freed memory.

PyTorch computes float32 products by MKL. On an AMD CPU oneDNN took a seventh to a quarter less time for long texts, and
half the time or less for the few rows of a large output head in decoding (``docs/explanation/speed.md``). For bfloat16
PyTorch uses oneDNN anyway.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from cell2sen.model import Model

_log = logging.getLogger(__name__)

# ── linear layers ─────────────────────────────────────────────────────────────────────────────────────────────────

#: Minimum number of weights of a layer for oneDNN, whose calls take 10 µs longer. There is no minimum of rows: a row's
#: result would depend on its neighbours in the batch.
_MIN_WEIGHTS = 2**18


def linear(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """:func:`torch.nn.functional.linear`, by oneDNN where that is faster; equal except for rounding."""
    if (
        weight.dtype == torch.float32
        and rows.dtype == torch.float32
        and weight.device.type == "cpu"
        and weight.numel() >= _MIN_WEIGHTS
        and (bias is None or bias.is_contiguous())
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and onednn_is_faster()
    ):
        product: torch.Tensor = _onednn()(rows, weight, bias, "none", [], "")
        return product
    return functional.linear(rows, weight, bias)


def use_onednn(network: torch.nn.Module) -> None:
    """Computes the plain linear layers of a network with :func:`linear`, in place.

    For networks that this package has loaded, never for those of a user. Sets an attribute ``forward`` on each layer
    object (``del layer.forward`` undoes it); classes, weights and names stay.
    """
    for module in network.modules():
        if is_plain_linear(module):
            module.forward = partial(_forward, module)


def is_plain_linear(module: torch.nn.Module) -> bool:
    """Whether a layer is a plain ``Linear``, without quantisation (bitsandbytes) or adapters (peft)."""
    return type(module) is torch.nn.Linear


def _forward(module: Any, input: torch.Tensor) -> torch.Tensor:
    return linear(input, module.weight, module.bias)


@lru_cache(maxsize=1)
def onednn_is_faster() -> bool:
    """Whether this is an AMD CPU and PyTorch has MKL and oneDNN. Not measured, so that results are reproducible."""
    backends: Any = torch.backends  # typed in parts only
    both = backends.mkl.is_available() and backends.mkldnn.is_available()
    if not both or "AuthenticAMD" not in _vendor():
        return False
    # An undocumented operation: if it is missing or computes something else, MKL is used.
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


# ── bfloat16 ──────────────────────────────────────────────────────────────────────────────────────────────────────


def resolve_dtype(model: Model, device: str) -> Model:
    """Model with the dtype for this device: float32 on a CPU without bfloat16, unless the user chose a dtype."""
    if device != "cpu" or model.dtype != "auto" or model.resolved_dtype != "bfloat16" or has_bfloat16():
        return model
    _log.info("this CPU has no bfloat16 instructions; computing in float32 (dtype='bfloat16' overrides this)")
    return replace(model, dtype="float32")


def has_bfloat16() -> bool:
    """Whether this CPU has bfloat16 instructions; others convert each number, which takes longer than float32."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))


def keep_quantized_layout(network: torch.nn.Module, *, only_unsupported: bool = False) -> None:
    """Switches off, in place, that bitsandbytes repacks 4-bit weights on CPUs with AVX-512.

    Repacking rounds the scales, so a network that is evaluated during training would continue with other weights. It
    also needs whole blocks of 64 inputs and 32 outputs, which bitsandbytes does not check.

    Parameters
    ----------
    only_unsupported
        Change only layers without whole blocks.
    """
    module: Any
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            whole_blocks = module.in_features % 64 == 0 and module.out_features % 32 == 0
            if not (only_unsupported and whole_blocks):
                module.support_avx512bf16_for_cpu = False


# ── malloc ────────────────────────────────────────────────────────────────────────────────────────────────────────

#: Environment variable that switches :func:`keep_freed_memory` off if it is ``"0"``.
KEEP_MEMORY_VARIABLE = "CELL2SEN_KEEP_MEMORY"

#: Parameters of ``mallopt`` (malloc.h of the GNU C library).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

#: Bytes of the largest block that malloc keeps when it is freed, and of all free memory that it keeps.
_MAX_KEPT_BLOCK, _MAX_KEPT = 2**30, 2**31 - 1


def keep_freed_memory() -> bool:
    """Sets malloc to keep freed memory in this process; returns whether it was set.

    Called when a model is loaded for inference or training, never by functions that only read or write data. Not done
    with another C library than GNU's, if the user has set malloc by environment variables (``MALLOC_…``,
    ``GLIBC_TUNABLES``), or with ``CELL2SEN_KEEP_MEMORY=0``.

    A forward pass allocates and frees hundreds of tensors. The GNU C library returns blocks above 32 MiB to the system
    at once, and others when enough are free; the system clears each page before it is used again. This took a third of
    the time of a training step and a tenth to a quarter of that of an embedding, label or sentence. With this setting
    up to 2 GiB stay with the process.
    """
    user_set = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if user_set or os.environ.get(KEEP_MEMORY_VARIABLE) == "0":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not the GNU C library; TypeError on Windows
        return False
    # Older releases accept at most 32 MiB, which is still above their default.
    mmap_set = mallopt(_MMAP_THRESHOLD, _MAX_KEPT_BLOCK) or mallopt(_MMAP_THRESHOLD, 2**25)
    return bool(mallopt(_TRIM_THRESHOLD, _MAX_KEPT) and mmap_set)
