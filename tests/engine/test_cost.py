"""Estimates of size, memory and time agree with published models and grow as they should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cell2sen.engine.cost import IDLE_MEMORY, memory, n_parameters, read_config, seconds, tokenizer_of, tokens_of
from cell2sen.model import Model


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        # From the table of sizes in the models' documentation.
        ({"model_type": "gpt_neox", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
          "intermediate_size": 4096, "vocab_size": 50304, "tie_word_embeddings": False}, 0.405),
        ({"model_type": "gpt_neox", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 8,
          "intermediate_size": 8192, "vocab_size": 50304, "tie_word_embeddings": False}, 1.0),
        ({"model_type": "gemma2", "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8,
          "head_dim": 256, "num_key_value_heads": 4, "intermediate_size": 9216, "vocab_size": 256000}, 2.6),
        ({"model_type": "gemma2", "hidden_size": 4608, "num_hidden_layers": 46, "num_attention_heads": 32,
          "head_dim": 128, "num_key_value_heads": 16, "intermediate_size": 36864, "vocab_size": 256000}, 27.2),
    ],
)  # fmt: skip
def test_parameters_of_known_models(config: dict[str, Any], billions: float) -> None:
    assert sum(n_parameters(config)) / 1e9 == pytest.approx(billions, rel=0.02)


def test_memory_falls_with_the_size_of_weights() -> None:
    config = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 100}
    full, half = memory(config, dtype="float32") - IDLE_MEMORY, memory(config, dtype="bfloat16") - IDLE_MEMORY
    assert full == 2 * half
    assert IDLE_MEMORY < memory(config, dtype="bfloat16", quantize="4bit") < IDLE_MEMORY + half


def test_time_grows_with_the_tokens() -> None:
    config = {"hidden_size": 512, "num_hidden_layers": 24, "num_attention_heads": 4, "vocab_size": 100}
    assert seconds(config, 0.0) == 0
    assert seconds(config, 1e9) > 0


def test_checkpoints_that_are_not_here(tmp_path: Path) -> None:
    model = Model(name="known", path="nowhere/at-all")
    assert read_config(model) is None
    assert tokenizer_of(model) is None
    assert tokens_of(None, ["CD4"], "a cell") == (4.0, 60.0)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    assert read_config(Model(name="here", path=str(tmp_path))) == {"hidden_size": 8}
