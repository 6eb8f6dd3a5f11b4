"""Batches within free memory: a budget of tokens, halved when memory runs out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.data.progress import Progress, Report

_log = logging.getLogger(__name__)

#: Function that processes the rows of one batch, given as row numbers; may be called again with a part of them.
Work = Callable[[list[int]], None]

#: Function of work, the lengths of all rows in tokens and a name for the progress bar; calls work with each batch.
RunBatches = Callable[[Work, NDArray[np.int64], str], None]

#: Maximum number of tokens of a batch. More are not faster. A row's result does not depend on it.
MAX_TOKENS = {"cpu": 8_192, "cuda": 65_536}

#: The same for generation token by token, where more rows are faster.
MAX_TOKENS_GENERATING = {"cpu": 16_384, "cuda": 65_536}

#: Share of the free memory that a batch may take: the estimate is rough, and other processes need memory, too.
_MEMORY_SHARE = 0.5


def free_memory(device: torch.device) -> int | None:
    """Free memory of a device in bytes; None if it cannot be determined."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + int(
            torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        )
    free: list[int] = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines() if ":" in line)
        if "MemAvailable" in lines:
            free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text(encoding="ascii").strip()).isdigit():
        free.append(max(int(text) - int(used.read_text(encoding="ascii")), 0))
    if not free and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(free, default=None)


def token_budget(
    config: Any, device: torch.device, item_size: int, *, cached: bool = False, generating: bool = False
) -> int:
    """Maximum number of tokens of one batch.

    A forward pass without gradients holds one layer's activations: the residual stream and its norm (in float32 within
    the norm), queries, keys, values and the attention output, and the three products of a gated MLP.

    Parameters
    ----------
    config
        Configuration of the text model.
    item_size
        Bytes of each number of the hidden states.
    cached
        Whether keys and values of all layers are kept.
    generating
        Whether answers are generated after the prompts.
    """
    limits = MAX_TOKENS_GENERATING if generating else MAX_TOKENS
    limit = limits.get(device.type, limits["cpu"])
    free = free_memory(device)
    if free is None:
        return limit
    hidden, inner = int(config.hidden_size), int(config.intermediate_size)
    heads = int(config.num_attention_heads)
    head_dim = int(getattr(config, "head_dim", None) or hidden // heads)
    per_token = item_size * (4 * hidden + 6 * heads * head_dim + 3 * inner) + 2 * 4 * hidden
    if cached:  # twice, since the cache is copied when it grows
        key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        per_token += 2 * item_size * 2 * int(config.num_hidden_layers) * head_dim * key_heads
    return max(1, min(limit, int(_MEMORY_SHARE * free) // per_token))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or in main memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def run_batches(
    work: Work,
    lengths: NDArray[np.int64],
    *,
    budget: int,
    size: int | None = None,
    progress: bool | Report = False,
    name: str = "",
) -> None:
    """Processes all rows in batches of similar length. The longest are first, so that a lack of memory shows at once.

    A batch that runs out of memory is split in two, and later ones have half of the budget.

    Parameters
    ----------
    lengths
        Tokens of each row, int64 (n,).
    budget
        Maximum tokens of a batch with its padding; a longer row is a batch of its own.
    size
        Rows of a batch, instead of `budget`.
    progress
        Show a progress bar on stderr for more than three batches, called `name`; or a function that is called for all.

    Raises
    ------
    torch.OutOfMemoryError, MemoryError, RuntimeError
        A single row does not fit into memory; the error has a note.
    """
    order = np.argsort(-lengths, kind="stable").tolist()
    is_long = len(_next(order, lengths, budget, size)) * 3 < len(order)
    with Progress(len(order), name, show=progress if callable(progress) else progress and is_long) as bar:
        while order:
            batch = _next(order, lengths, budget, size)
            bar.begin(len(batch))
            try:
                work(batch)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    error.add_note(
                        f"not enough memory for one prompt of {int(lengths[batch[0]])} tokens: use fewer genes "
                        "(max_genes=), a smaller model, or quantize="
                    )
                    raise
                budget, size = int(lengths[batch[0]]) * (len(batch) // 2), None if size is None else len(batch) // 2
            else:
                order = order[len(batch) :]
                bar.update(len(batch))
                continue
            # After the except block, whose error keeps the tensors of the batch in memory.
            _log.warning("out of memory with %d prompts in a batch; continuing with %d", len(batch), len(batch) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _next(order: Sequence[int], lengths: NDArray[np.int64], budget: int, size: int | None) -> list[int]:
    """The rows of the next batch."""
    if not order:
        return []
    n_rows = size if size is not None else max(1, budget // max(1, int(lengths[order[0]])))
    return list(order[:n_rows])
