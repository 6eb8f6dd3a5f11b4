"""Settings of the model: excluded combinations, defaults that depend on the tokenizer."""

from __future__ import annotations

from typing import Any

import pytest

from cell2sen.training.config.model import GeneTokens, Initial, Lora, ModelConfig, NewTokenizer, Scratch

EITHER = "name either model.start"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, EITHER),
        ({"start": "nano", "from_scratch": Scratch()}, EITHER),
        ({"from_scratch": Scratch(), "lora": Lora()}, "leave out model.from_scratch"),
        ({"from_scratch": Scratch(), "gene_tokens": GeneTokens()}, "leave out model.from_scratch"),
        ({"start": "nano", "quantize": "2bit"}, "must be '4bit' .* found '2bit'"),
        ({"start": "nano", "quantize": "4bit"}, "only adapters to them: add model.lora"),
        ({"from_scratch": Scratch(), "start_share": 0.25}, "share of the starting weights, .* found 0.25"),
        ({"start": "nano", "start_share": 1.0}, "from 0 to below 1"),
        ({"start": "nano", "start_share": 0.1, "lora": Lora()}, "must be 0 with lora"),
    ],
)
def test_mistakes(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)


def test_architectures_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.kind must be 'genes' or 'bpe', found 'words'"):
        NewTokenizer(kind="words")
    with pytest.raises(ValueError, match="hidden_size must be a multiple of heads, found 256 and 3"):
        Scratch(heads=3)


def test_first_weights_depend_on_the_tokenizer() -> None:
    assert Scratch(hidden_size=64).initial == Initial(std=0.125, layer_norm_eps=0.05)
    pieces = Scratch(tokenizer=NewTokenizer(kind="bpe"))
    assert (pieces.initial.std, pieces.initial.layer_norm_eps) == (0.02, 1e-5)
    assert Scratch(initial=Initial(std=0.1)).initial == Initial(std=0.1, layer_norm_eps=0.05)
