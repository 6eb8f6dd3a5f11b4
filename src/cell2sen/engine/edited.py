"""Cell vectors of edited prompts from the keys and values of the unedited ones, for the tokens before the edit.

Edits of one cell share its first tokens up to the first edited gene. Each cell is read once; of an edited prompt only
the tokens from there on are read.

Axes in names: B rows of the batch, L length, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.data.progress import Progress, Report
from cell2sen.engine.network import attention_context
from cell2sen.engine.network.causal_lm import CausalLM
from cell2sen.engine.network.kv_cache import KeyValueCache
from cell2sen.engine.tokenization.tokenizer import Tokenized, common_length

#: Smallest share of a prompt before the edit that is worth it: the attention to earlier tokens is slower.
MIN_SHARED = 0.25

#: Rows whose shared tokens differ in number by more than this share of a prompt are not read together.
_MAX_SPREAD = 0.06


def shared_tokens(row: NDArray[np.int32], base: NDArray[np.int32]) -> int:
    """Number of first tokens that are the same, at most all but the last of `row`."""
    length = min(len(row) - 1, len(base))
    differs = row[:length] != base[:length]
    return int(np.argmax(differs)) if differs.any() else length


def is_worth_it(row: NDArray[np.int32], base: NDArray[np.int32]) -> bool:
    """Whether enough tokens are shared; depends on this row alone."""
    return shared_tokens(row, base) >= MIN_SHARED * len(row)


@torch.inference_mode()
def mean_vectors(
    causal: CausalLM,
    bases: Sequence[Tokenized],
    rows: Sequence[Tokenized],
    base_of: Sequence[int],
    *,
    budget: int,
    progress: bool | Report = False,
) -> NDArray[np.float32]:
    """Mean of the last hidden states of all tokens, float32 (rows, D), as without shared tokens.

    Parameters
    ----------
    bases
        Prompts, each of which some rows share their first tokens with.
    rows, base_of
        Edited prompts, and the base of each.
    budget
        Maximum number of tokens that are read in a batch; with those that are shared, twice as many.
    """
    vectors = np.zeros((len(rows), int(causal.config.hidden_size)), dtype=np.float32)
    of_base: dict[int, list[int]] = {}
    for row, base in enumerate(base_of):
        of_base.setdefault(base, []).append(row)
    with Progress(len(rows), "edited sentences", show=progress) as bar:
        for base, members in of_base.items():
            whole = bases[base].ids
            cache = KeyValueCache(int(causal.config.num_hidden_layers), len(whole))
            hidden_LD = _read(causal, whole[None], 0, cache)[0].float()
            sums_LD = torch.cat([hidden_LD.new_zeros(1, hidden_LD.shape[1]), hidden_LD.cumsum(dim=0)])
            for start, batch in _batches([(shared_tokens(rows[row].ids, whole), row) for row in members], rows, budget):
                vectors[batch] = _of_batch(causal, [rows[row].ids for row in batch], start, cache, sums_LD[start])
                bar.update(len(batch))
    return vectors


def _batches(shared: list[tuple[int, int]], rows: Sequence[Tokenized], budget: int) -> list[tuple[int, list[int]]]:
    """Numbers of rows that are read together, and the tokens that all of them share."""
    batches: list[tuple[int, list[int]]] = []
    longest = 0
    for start, row in sorted(shared):
        length = len(rows[row])
        if batches:
            first, batch = batches[-1]
            longest = max(longest, length)
            n_rows, n_read = len(batch) + 1, longest - first
            near = start - first <= _MAX_SPREAD * length
            if near and n_rows * n_read <= budget and n_rows * longest <= 2 * budget:  # half of it are cached keys
                batch.append(row)
                continue
        batches.append((start, [row]))
        longest = length
    return batches


def _of_batch(
    causal: CausalLM,
    rows: Sequence[NDArray[np.int32]],
    start: int,
    cache: KeyValueCache,
    sum_D: torch.Tensor,
) -> NDArray[np.float32]:
    """Vectors of rows that share the first `start` tokens of the cached prompt, whose hidden states add up to `sum_D`.

    Padding comes after all tokens of a row, where none of them sees it.
    """
    longest = max(map(len, rows))
    length = common_length(longest - start, int(causal.config.max_position_embeddings) - start)
    ids = np.zeros((len(rows), length), dtype=np.int64)
    real = np.zeros((len(rows), length), dtype=bool)
    for line, row in enumerate(rows):
        ids[line, : len(row) - start], real[line, : len(row) - start] = row[start:], True
    hidden_BLD = _read(causal, ids, start, cache.repeated(len(rows), start))
    real_BL = torch.from_numpy(real).to(hidden_BLD.device)
    sum_BD = torch.where(real_BL[:, :, None], hidden_BLD.float(), 0.0).sum(dim=1) + sum_D
    n_tokens = torch.tensor([len(row) for row in rows], device=hidden_BLD.device)[:, None]
    return np.asarray((sum_BD / n_tokens).cpu().numpy())


def _read(causal: CausalLM, ids_BL: NDArray[np.integer], start: int, cache: KeyValueCache) -> torch.Tensor:
    """Hidden states (B, L, D) of tokens from position `start` on, which are added to the cache."""
    cache.write_at, cache.length = start, start + ids_BL.shape[1]
    position = torch.arange(start, cache.length, device=causal.device)[None]
    with attention_context.use_mask(None):
        return causal.forward(ids_BL, position, None, cache)
