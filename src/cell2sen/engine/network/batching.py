"""Batches under a budget of tokens that is found from free memory; out of memory halves it and goes on."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

_log = logging.getLogger(__name__)

#: Tokens of a batch at most. More keep no processor busier; a row's result does not depend on them.
MOST_TOKENS = {"cpu": 8_192, "cuda": 65_536}

#: The same where answers are written token by token behind them: the more rows, the better.
MOST_WRITTEN = {"cpu": 16_384, "cuda": 65_536}

#: Share of the free memory that a batch may take: the estimate is rough, and others use the machine, too.
_SHARE = 0.5


def free_memory(device: torch.device) -> int | None:
    """Bytes that could still be taken on this device; None where nobody says so."""
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
    config: Any, device: torch.device, item_size: int, *, cached: bool = False, written: bool = False
) -> int:
    """Tokens that one batch may have.

    A forward pass without gradients holds one layer's activations: the residual stream and its norm (in float32 within
    the norm), queries, keys, values and what comes of them, and the three products of a gated MLP.

    Parameters
    ----------
    config
        Of the text model.
    item_size
        Bytes of a number of the hidden states.
    cached
        Keys and values of all layers are kept.
    written
        Answers are written behind the tokens.
    """
    table = MOST_WRITTEN if written else MOST_TOKENS
    most = table.get(device.type, table["cpu"])
    free = free_memory(device)
    if free is None:
        return most
    hidden, inner = int(config.hidden_size), int(config.intermediate_size)
    heads = int(config.num_attention_heads)
    each = int(getattr(config, "head_dim", None) or hidden // heads)
    per_token = item_size * (4 * hidden + 6 * heads * each + 3 * inner) + 2 * 4 * hidden
    if cached:  # with as much again for what is moved to grow
        per_token += (
            2
            * item_size
            * 2
            * int(config.num_hidden_layers)
            * each
            * int(getattr(config, "num_key_value_heads", None) or heads)
        )
    return max(1, min(most, int(_SHARE * free) // per_token))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or in main memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def run(
    work: Callable[[list[int]], None],
    lengths: NDArray[np.int64],
    *,
    budget: int,
    size: int | None = None,
    progress: bool = False,
    name: str = "",
) -> None:
    """Do all rows, in batches of similar length, the longest first: what does not fit into memory shows at once.

    A batch that runs out of memory is done again as two, and later ones have half of the budget.

    Parameters
    ----------
    work
        Does the rows of one batch; may be called again with a part of them.
    lengths
        Tokens of each row, int64 (n,).
    budget
        Tokens of a batch, with its padding; a row that has more is a batch of its own.
    size
        Rows of a batch instead.
    progress
        A bar on stderr for more than three batches, called `name`.

    Raises
    ------
    torch.OutOfMemoryError, MemoryError, RuntimeError
        What the allocator said of a single row, with a note.
    """
    order = np.argsort(-lengths, kind="stable").tolist()
    many = len(_next(order, lengths, budget, size)) * 3 < len(order)
    with tqdm(total=len(order), desc=name, unit="cell", file=sys.stderr, disable=not (progress and many)) as bar:
        while order:
            batch = _next(order, lengths, budget, size)
            try:
                work(batch)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    error.add_note(
                        f"there is no memory for one prompt of {int(lengths[batch[0]])} tokens: take fewer genes "
                        "(max_genes=), a smaller model, or quantize="
                    )
                    raise
                budget, size = int(lengths[batch[0]]) * (len(batch) // 2), None if size is None else len(batch) // 2
            else:
                order = order[len(batch) :]
                bar.update(len(batch))
                continue
            # Outside of the handler, whose error holds the tensors of the batch.
            _log.warning("out of memory with %d prompts at a time; going on with %d", len(batch), len(batch) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _next(order: Sequence[int], lengths: NDArray[np.int64], budget: int, size: int | None) -> list[int]:
    if not order:
        return []
    n_rows = size if size is not None else max(1, budget // max(1, int(lengths[order[0]])))
    return list(order[:n_rows])
