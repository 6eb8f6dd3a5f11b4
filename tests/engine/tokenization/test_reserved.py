"""Tokens that prompts leave free for answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
from tiny import GENES, prompts

from cell2sen.engine.tokenization.reserved import for_answers, for_genes


def test_genes_take_their_mean_length_or_the_longest() -> None:
    tokens = tiny.tokens("bytes")
    mean = np.mean([len(ids) for ids in tokens.ids([f" {gene}" for gene in GENES])])
    known = np.ones(len(GENES), dtype=bool)
    result = for_genes(tokens, GENES, [1, 7], known)
    assert result.tolist() == [math.ceil(mean), math.ceil(7 * mean)]
    longest = sorted((len(ids) for ids in tokens.ids([f" {gene}" for gene in GENES])), reverse=True)
    result = for_genes(tokens, GENES, [1, 7], known, longest=True)
    assert result.tolist() == [longest[0] + 4, sum(longest[:7]) + 4]
    known[3] = False
    with pytest.raises(ValueError, match=rf"cannot write 1 of {len(GENES)} genes, such as \['{GENES[3]}'\]"):
        for_genes(tokens, GENES, [1], known)


@pytest.mark.parametrize("kind", ["spm", "bytes"])
def test_answers_take_the_longest(kind: str) -> None:
    tokens = tiny.tokens(kind)
    answers = [" T", " monocyte of the blood.", ""]
    rows = prompts(3)
    for row, reserved in zip(rows, for_answers(tokens, rows, answers), strict=True):
        lengths = [len(ids) for ids in tokens.ids([row.text + answer for answer in answers])]
        assert reserved == max(lengths) - lengths[2]
