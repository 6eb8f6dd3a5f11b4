"""Estimated tokens, memory and time of embedding, without loading weights."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.model import Model

if TYPE_CHECKING:
    from cell2sen.engine.tokenization.tokenizer import Tokens

#: Tokens per gene and tokens of the instruction in the published checkpoints, for models whose tokenizer is not on this
#: machine.
TOKENS_PER_GENE, TOKENS_OF_INSTRUCTION = 4.0, 60.0

#: Tokens of a batch on a CPU (as in :mod:`cell2sen.engine.network.batching`, which needs torch), and bytes of Python
#: and PyTorch without a model. With these and the factors in `memory`, embedding 400 PBMC with a model of 3.2 million
#: parameters is estimated at 0.9 GB; measured: 0.95 GB.
BATCH_TOKENS, IDLE_MEMORY = 8192, 0.5e9

BYTES_PER_WEIGHT = {"float32": 4, "bfloat16": 2, "float16": 2}

#: Size of quantised layers relative to their dtype. Embeddings are never quantised.
QUANTIZED_SIZE = {"4bit": 0.28, "8bit": 0.52}

#: Speed of a model relative to that of a large matrix product, where its layer is not measured.
CPU_EFFICIENCY = 0.3

#: Weights of a layer that is measured, at most, and seconds for each token outside of layers (text, batches, pooling).
MAX_PROBED, SECONDS_PER_PROMPT_TOKEN = 1e8, 2e-7


def read_config(model: Model) -> dict[str, Any] | None:
    """A checkpoint's ``config.json``, from its directory or the hub's cache; ``None`` if not on this machine."""
    if model.is_local:
        file = Path(model.path) / "config.json"
    else:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model.path, "config.json", revision=model.revision)
        if not isinstance(cached, str):
            return None
        file = Path(cached)
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def tokenizer_of(model: Model) -> Tokens | None:
    """Tokenizer of a checkpoint; ``None`` if it is not on this machine."""
    from cell2sen.engine.tokenization.tokenizer import load_tokens

    try:
        return load_tokens(model.path, local_files_only=True, revision=model.revision)
    except (OSError, ValueError):
        return None


def tokens_of(tokenizer: Tokens | None, genes: Sequence[str], instruction: str) -> tuple[float, float]:
    """Mean tokens per gene, and tokens of the instruction; those of the published checkpoints without a tokenizer."""
    if tokenizer is None:
        return TOKENS_PER_GENE, TOKENS_OF_INSTRUCTION
    counts: NDArray[np.int64] = tokenizer.count([" " + gene for gene in genes])
    return float(counts.mean()) if len(counts) else 1.0, float(tokenizer.count([instruction])[0])


def context_of(config: dict[str, Any]) -> int | None:
    """Tokens that a prompt can have; ``None`` if the checkpoint does not tell."""
    return int(config.get("max_position_embeddings", 0)) or None


def seconds_of_prompts(config: dict[str, Any], tokens: NDArray[np.floating[Any]], *, dtype: str = "float32") -> float:
    """Seconds of embedding prompts of these lengths, (n,), cut to the context; see :func:`seconds`."""
    context = context_of(config)
    used = np.minimum(tokens, context) if context else tokens
    return seconds(config, float(used.sum()), length=float(np.median(used)), dtype=dtype) if len(used) else 0.0


def n_parameters(config: dict[str, Any]) -> tuple[float, float]:
    """Numbers of parameters of a decoder's layers and of its embeddings, without biases and norms."""
    hidden, layers = float(config.get("hidden_size", 0)), float(config.get("num_hidden_layers", 0))
    heads, inner = float(config.get("num_attention_heads", 1)), float(config.get("intermediate_size", 4 * hidden))
    head_width = float(config.get("head_dim") or hidden / heads)
    key_heads = float(config.get("num_key_value_heads") or heads)
    gemma = "gemma" in str(config.get("model_type"))
    per_layer = hidden * head_width * (2 * heads + 2 * key_heads) + (3 if gemma else 2) * hidden * inner
    tied = bool(config.get("tie_word_embeddings", gemma))
    return layers * per_layer, float(config.get("vocab_size", 0)) * hidden * (1 if tied else 2)


def memory(config: dict[str, Any], *, dtype: str, quantize: str | None = None) -> float:
    """Bytes of main memory for the weights, one batch, Python and PyTorch."""
    in_layers, in_embeddings = n_parameters(config)
    size = BYTES_PER_WEIGHT[dtype]
    hidden = float(config.get("hidden_size", 0))
    batch = BATCH_TOKENS * (12 * hidden + 8 * float(config.get("intermediate_size", 4 * hidden))) * size
    weights = (in_layers * QUANTIZED_SIZE.get(quantize or "", 1.0) + in_embeddings) * size
    return IDLE_MEMORY + weights + batch


def seconds(config: dict[str, Any], n_tokens: float, *, length: float = 512, dtype: str = "float32") -> float:
    """Seconds of embedding `n_tokens` on this CPU, without reading the file and loading the weights.

    One layer with random weights is measured (:mod:`cell2sen.engine.network.probe`). For large layers and unknown
    architectures: two operations per weight and token, at a share of the speed of a matrix product.

    Parameters
    ----------
    length
        Tokens of a prompt.
    dtype
        Number format of the weights.
    """
    in_layers = n_parameters(config)[0]
    n_layers = float(config.get("num_hidden_layers", 0))
    if n_tokens and n_layers and in_layers / n_layers <= MAX_PROBED:
        from cell2sen.engine.network.probe import seconds_per_token

        try:
            per_token = seconds_per_token(config, dtype=dtype, length=round(length), parameters=in_layers / n_layers)
        except (ValueError, KeyError, TypeError, AttributeError):  # an architecture that transformers does not have
            pass
        else:
            return n_tokens * (per_token * n_layers + SECONDS_PER_PROMPT_TOKEN)
    return n_tokens * 2 * in_layers / (CPU_EFFICIENCY * _flops_per_second())


def _flops_per_second() -> float:
    matrix = np.ones((768, 768), dtype=np.float32)
    matrix @ matrix
    started = time.perf_counter()
    for _ in range(3):
        matrix @ matrix
    return 3 * 2 * 768**3 / (time.perf_counter() - started)
