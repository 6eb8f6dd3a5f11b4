"""Gene tries of a tokenizer: the genes as they are tokenized after a prompt, and tokens that may end an answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from cell2sen.engine.decoding.gene_trie import GeneTrie

if TYPE_CHECKING:
    from cell2sen.engine.tokenization.tokenizer import Tokens

#: Maximum number of gene tries kept for later calls: one for each pair of gene list and last word of a prompt.
_MAX_TRIES = 16


class GeneTries:
    """Tries of gene lists, kept for later calls.

    Parameters
    ----------
    eos
        Tokens that end a text.
    """

    def __init__(self, tokens: Tokens, eos: Collection[int]) -> None:
        self.tokens, self.eos = tokens, frozenset(eos)
        self._tries: dict[tuple[tuple[str, ...], str], GeneTrie] = {}

    def trie(self, genes: tuple[str, ...], text: str) -> GeneTrie:
        """Trie of the genes as they are tokenized after another gene, and after the last word of the prompt `text`.

        The first gene has a space before it, but none at the beginning of a line.

        Raises
        ------
        ValueError
            The prompt ends in whitespace other than one line break.
        """
        if text.removesuffix("\n") != text.rstrip():
            raise ValueError(
                f"a prompt for a guided answer must not end in whitespace, except one line break; found {text[-20:]!r}"
            )
        last = text.split()[-1] + text[len(text.rstrip()) :] if text.strip() else ""
        if (genes, last) not in self._tries:
            later, first = (self.tokens.continuations(before, genes) for before in (genes[0], last))
            same = (trie for (listed, _), trie in self._tries.items() if listed == genes and trie.first_root == 0)
            trie = next(same, None) if first == later else None
            self._tries[genes, last] = trie or GeneTrie(genes, later, first)
            if len(self._tries) > _MAX_TRIES:
                del self._tries[next(iter(self._tries))]
        return self._tries[genes, last]

    def ends(self, gene: str, stop: Sequence[str] = ()) -> list[int]:
        """Tokens that may follow the last gene: end of text, or the first token of a full stop or stop string."""
        ends = {*self.eos}
        for string in (".", *stop):
            [bare], [joined] = self.tokens.ids([gene]), self.tokens.ids([gene + string])
            if joined[: len(bare)] == bare and len(joined) > len(bare):
                ends.add(joined[len(bare)])
        return sorted(ends)
