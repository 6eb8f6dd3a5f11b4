from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch

from cell2sen.engine.network.probe import seconds_per_token


def test_one_layer_of_a_checkpoint_is_measured(tmp_path: Path) -> None:
    config = json.loads((Path(tiny.save(tmp_path / "model")) / "config.json").read_text())
    state = torch.random.get_rng_state()
    short, long = (seconds_per_token(config, dtype="float32", length=length, parameters=1e4) for length in (8, 2048))
    assert 0 < short < 1e-3
    assert long > short  # attention to all tokens before
    assert torch.equal(state, torch.random.get_rng_state())


def test_gemma_2_has_a_layer_of_each_kind() -> None:
    config = {
        "model_type": "gemma2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 8,
        "num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": 1000, "dtype": "bfloat16", "eos_token_id": 999,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }  # fmt: skip
    assert seconds_per_token(config, dtype="bfloat16", length=16, parameters=1e4) > 0
    assert config["num_hidden_layers"] == 4


def test_an_unknown_architecture_is_an_error() -> None:
    with pytest.raises(ValueError, match="nono"):
        seconds_per_token({"model_type": "nono"}, dtype="float32", length=16, parameters=1e4)
