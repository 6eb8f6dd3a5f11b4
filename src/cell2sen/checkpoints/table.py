"""Table of the known checkpoints: architecture, size, licence, needed memory."""

from __future__ import annotations

from typing import Any

from cell2sen.engine.cost import memory, n_parameters, read_config
from cell2sen.model import KNOWN, Model


def _neox(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "gpt_neox", "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": 4 * hidden, "vocab_size": 50304, "tie_word_embeddings": False,
    }  # fmt: skip


def _gemma2(hidden: int, layers: int, heads: int, inner: int, head_dim: int) -> dict[str, Any]:
    return {
        "model_type": "gemma2", "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": heads // 2, "head_dim": head_dim, "intermediate_size": inner, "vocab_size": 256000,
    }  # fmt: skip


#: Shapes of the published checkpoints, for those that are not on this machine: Pythia (Biderman et al. 2023, table 1)
#: and Gemma 2 (Gemma Team 2024, table 1).
SHAPES = {
    "pythia-160m": _neox(768, 12, 12),
    **dict.fromkeys(("pythia-410m", "pythia-410m-annotate", "pythia-410m-generate"), _neox(1024, 24, 16)),
    "pythia-1b": _neox(2048, 16, 8),
    "gemma-2-2b": _gemma2(2304, 26, 8, 9216, 256),
    "gemma-2-27b": _gemma2(4608, 46, 32, 36864, 128),
}


def known_checkpoints() -> list[dict[str, Any]]:
    """A dictionary for each known checkpoint, the embedded one first.

    Returns
    -------
    ``name``, ``architecture`` (of transformers), ``parameters``, ``licence``, ``hub_id`` (empty for the embedded
    model), ``max_genes`` of its sentences, ``gb`` (10⁹ bytes of the weights as they are computed with), and
    ``memory_gb`` (needed to embed with one batch on a CPU, by the rule of :func:`cell2sen.check`), ``memory_4bit_gb``
    (the same with ``quantize="4bit"``), ``where`` (how to get it).
    """
    return [_row(model) for model in KNOWN.values()]


def _row(model: Model) -> dict[str, Any]:
    from cell2sen.model import resolve

    config = SHAPES.get(model.name) or read_config(model) or {}
    model = resolve(model)
    dtype = model.resolved_dtype
    n = sum(n_parameters(config))
    return {
        "name": model.name,
        "architecture": str(config.get("model_type", "unknown")),
        "parameters": f"{n / 1e6:.1f}M" if model.is_local else model.parameters,
        "licence": model.licence,
        "hub_id": "" if model.is_local else model.path,
        "max_genes": model.recipe.max_genes,
        "gb": round(n * (4 if dtype == "float32" else 2) / 1e9, 2),
        "memory_gb": round(memory(config, dtype=dtype) / 1e9, 1),
        "memory_4bit_gb": round(memory(config, dtype=dtype, quantize="4bit") / 1e9, 1),
        "where": "in this package" if model.is_local else f"cell2sen fetch {model.name}",
    }
