"""Pair: a prompt and the answer to be learned; prompts and answers that fit into a context."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cell2sen.engine.tokenization.tokenizer import Tokens, fit
from cell2sen.prompt import Prompt

_log = logging.getLogger(__name__)

#: Tokens reserved besides prompt and answer: end of text, and one that the joined text may need more than its parts.
RESERVED_TOKENS = 2


class Pair(NamedTuple):
    """A prompt and the answer to be learned."""

    task: str
    prompt: Prompt
    completion: str

    @property
    def cells(self) -> tuple[str, ...]:
        """Names of the cells whose genes are in prompt or answer."""
        read = [genes.cell for genes in self.prompt.lists if genes.cell]
        return tuple(dict.fromkeys([*read, self.prompt.key]))


class PairOfCells(Pair):
    """A pair with cells that its prompt does not name: a control, or those of the answer."""

    names: tuple[str, ...] = ()
    """Names of all its cells."""

    shorter: Callable[[int], tuple[Prompt, str]] | None = None
    """Prompt and answer with this number of genes per cell, for contexts that are too short for an answer of several
    cells; ``None`` for other answers."""

    @property
    def cells(self) -> tuple[str, ...]:
        """Names of the cells whose genes are in prompt or answer."""
        return self.names or super().cells

    @classmethod
    def of(
        cls, task: str, shorter: Callable[[int], tuple[Prompt, str]], n_genes: int, names: Sequence[str] = ()
    ) -> PairOfCells:
        """Pair with `n_genes` genes per cell."""
        pair = cls(task, *shorter(n_genes))
        pair.shorter, pair.names = shorter, tuple(names)
        return pair

    @classmethod
    def named(cls, task: str, prompt: Prompt, completion: str, names: Sequence[str]) -> PairOfCells:
        """Pair whose cells have these names."""
        pair = cls(task, prompt, completion)
        pair.names = tuple(dict.fromkeys(names))
        return pair


def fitted(pairs: Sequence[Pair], tokens: Tokens, context: int) -> tuple[list[Prompt], list[str]]:
    """Prompts and answers that fit into a context together.

    Prompts that are too long lose genes. Answers are never cut, except those of several cells, of which all cells lose
    the same number of genes.

    Raises
    ------
    ValueError
        An answer does not fit even if the prompt has no genes.
    """
    prompts, completions = [pair.prompt for pair in pairs], [pair.completion for pair in pairs]
    # A token has one character or more: most samples need no counting in a long context.
    long = [place for place, pair in enumerate(pairs) if not _is_short(pair, context)]
    if long:
        cut, answers = _fitting_answers([pairs[place] for place in long], tokens, context)
        reserved = tokens.count(answers) + RESERVED_TOKENS
        cut, _ = fit(cut, context=context, reserved_tokens=reserved, count=tokens.lengths)
        for place, prompt, answer in zip(long, cut, answers, strict=True):
            prompts[place], completions[place] = prompt, answer
    return prompts, completions


def _is_short(pair: Pair, context: int) -> bool:
    """Whether a sample has so few characters that it fits whatever the tokenizer; false where it is not certain."""
    text = pair.prompt.text + pair.completion
    return len(text) + 2 * RESERVED_TOKENS <= context and text.isascii()


def _fitting_answers(pairs: Sequence[Pair], tokens: Tokens, context: int) -> tuple[list[Prompt], list[str]]:
    """Prompts and answers; answers of several cells with as many genes per cell as fit behind their prompt."""
    prompts, completions = [pair[1] for pair in pairs], [pair[2] for pair in pairs]
    several = [
        (place, pair.shorter)
        for place, pair in enumerate(pairs)
        if isinstance(pair, PairOfCells) and pair.shorter is not None
    ]

    def fits_into(prompt: Prompt, completion: str) -> bool:
        length = tokens.lengths([prompt])[0] + tokens.count([completion])[0]
        return bool(length + RESERVED_TOKENS <= context)

    cut = 0
    for place, shorter in several:
        if fits_into(prompts[place], completions[place]):
            continue
        fits, over = 0, prompts[place].answer_genes or 1
        while over - fits > 1:
            middle = (fits + over) // 2
            fits, over = (middle, over) if fits_into(*shorter(middle)) else (fits, middle)
        prompts[place], completions[place] = shorter(max(1, fits))
        cut += 1
    if cut:
        _log.warning(
            "%d of %d answers of several cells were too long for the context of %d tokens: their cells lost genes",
            cut,
            len(several),
            context,
        )
    return prompts, completions
