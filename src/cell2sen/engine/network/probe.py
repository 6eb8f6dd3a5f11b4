"""Measured speed of a model on this CPU: one of its layers with random weights, without the model's weights."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers

from cell2sen.engine.network import attention, cpu

_hf: Any = transformers  # typed in parts only

#: Tokens and operations of a measured pass, at most, and repeated passes, of which the median counts.
MAX_TOKENS, MAX_OPERATIONS, PASSES = 8192, 2e10, 3

#: Words of the layer's vocabulary: its size changes nothing, as vectors are looked up.
_WORDS = 64


def seconds_per_token(config: Mapping[str, Any], *, dtype: str, length: int, parameters: float) -> float:
    """Seconds that one layer needs for a token of prompts of `length` tokens, in batches as embedding has them.

    Parameters
    ----------
    config
        Content of a checkpoint's ``config.json``.
    dtype
        Number format of the weights.
    parameters
        Weights of a layer, which limit the number of tokens.

    Raises
    ------
    ValueError, KeyError, TypeError
        transformers does not have this architecture.
    """
    small = dict(config) | {
        "num_hidden_layers": 1,
        "vocab_size": _WORDS,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    if "layer_types" in small:
        small["layer_types"] = list(small["layer_types"])[:1]
    for name in ("dtype", "torch_dtype", "transformers_version", "architectures", "bos_token_id", "eos_token_id"):
        small.pop(name, None)
    settings = _hf.AutoConfig.for_model(small.pop("model_type"), **small)
    with torch.random.fork_rng(devices=[]):
        layer = _hf.AutoModel.from_config(
            settings, attn_implementation=attention.register(), dtype=getattr(torch, dtype)
        ).eval()
    cpu.use_onednn(layer)
    limit = int(max(1, min(MAX_TOKENS, MAX_OPERATIONS / max(1.0, 2 * parameters))))
    length = max(1, min(length, limit))
    ids = torch.zeros((max(1, limit // length), length), dtype=torch.int64)
    seconds = []
    with torch.inference_mode():
        layer(input_ids=ids[:1], use_cache=False)
        for _ in range(PASSES):
            started = time.perf_counter()
            layer(input_ids=ids, use_cache=False)
            seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)) / ids.numel()
