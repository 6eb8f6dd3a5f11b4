"""Tokens that prompts leave free for their answers: guided genes, or the longest of a closed set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cell2sen.engine.tokenization.tokenizer import Tokens
from cell2sen.prompt import Prompt

#: Tokens that end an answer, and those by which a first gene may be longer than a later one.
_ENDS = 4


def for_genes(
    tokens: Tokens, genes: Sequence[str], n_genes: Sequence[int], known: NDArray[np.bool_], *, longest: bool = False
) -> NDArray[np.int64]:
    """Tokens of answers of `n_genes` genes each, int64 (n,).

    The mean, not the maximum: for a few long names half of a long prompt would be cut.

    Parameters
    ----------
    known
        Which of `genes` the model can write, bool.
    longest
        The maximum, with the tokens that end an answer: for engines that end an answer at the context.

    Raises
    ------
    ValueError
        The model cannot write some of the genes.
    """
    if unknown := [gene for gene, is_known in zip(genes, known, strict=True) if not is_known]:
        raise ValueError(
            f"the model cannot write {len(unknown)} of {len(genes)} genes, such as {unknown[:5]}; leave them out "
            "(known_genes returns False for them)"
        )
    lengths = np.sort([len(ids) for ids in tokens.continuations(genes[0], genes)])[::-1]
    if longest:
        return np.array([lengths[:number].sum() + _ENDS for number in n_genes], dtype=np.int64)
    tokens_per_gene = float(lengths.mean())
    return np.array([math.ceil(number * tokens_per_gene) for number in n_genes], dtype=np.int64)


def for_answers(tokens: Tokens, prompts: Sequence[Prompt], answers: Sequence[str]) -> NDArray[np.int64]:
    """Tokens of the longest of `answers` after each prompt, int64 (n,).

    One number for all answers of a cell, so that their scores are of the same prompt. After a prompt an answer may have
    a token more or less than alone, so it is counted there.
    """
    bare = [prompt.shorten(0) for prompt in prompts]
    added = {}
    for text, one in {one.text: one for one in bare}.items():
        longest = max(map(len, tokens.encode([one] * len(answers), answers)))
        added[text] = max(longest - int(tokens.lengths([one])[0]), 0)
    return np.array([added[one.text] for one in bare], dtype=np.int64)
