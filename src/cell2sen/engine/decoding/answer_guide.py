"""Answer guide: the next token of one answer from its tokens so far, for engines that call back once per token.

Tokens are those of the loop of this package (:mod:`cell2sen.engine.decoding.loop`): the same guide, and the same noise.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.engine.decoding.gene_trie import GeneTrie
from cell2sen.engine.decoding.guide import Guide

if TYPE_CHECKING:
    import torch

#: Names under which a request to an engine carries an answer's settings and genes.
ANSWER, GENES = "cell2sen_answer", "cell2sen_genes"


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerRequest:
    """What decides the tokens of one answer. :meth:`arguments` are plain texts for another process or machine."""

    key: int
    """Key of the row's noise (:func:`cell2sen.engine.decoding.sampling.row_key`)."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    trie: GeneTrie | None = None
    """Genes that may be written; ``None`` for free text."""

    n_genes: int = 0
    """Genes of a guided answer."""

    ends: tuple[int, ...] = ()
    """Tokens that may end the last gene of a guided answer. Some, such as a full stop, may also be within genes."""

    end: int | None = None
    """End-of-text token, which is written after a guided answer, so that an engine stops."""

    @property
    def is_drawn(self) -> bool:
        """Whether tokens are drawn; greedy free text needs no guide."""
        return self.temperature > 0

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest guided answer, with the two that may end it."""
        assert self.trie is not None
        lengths = np.sort((self.trie.nodes < self.trie.n_nodes).sum(axis=2).max(axis=0))
        return int(lengths[-self.n_genes :].sum()) + 2

    def arguments(self) -> dict[str, str]:
        """Arguments of a request to an engine that has a guide."""
        settings = {name: getattr(self, name) for name in _SETTINGS}
        genes = {} if self.trie is None else {GENES: _packed(self.trie)}
        return {ANSWER: json.dumps(settings)} | genes

    @classmethod
    def read(cls, arguments: Mapping[str, Any] | None) -> AnswerRequest | None:
        """The request in the arguments of an engine's request; ``None`` if there is none.

        Raises
        ------
        ValueError
            The arguments are not those of :meth:`arguments`.
        """
        if not arguments or ANSWER not in arguments:
            return None
        try:
            settings = json.loads(arguments[ANSWER])
            settings["ends"] = tuple(int(end) for end in settings["ends"])
            genes = arguments.get(GENES)
            request = cls(trie=None if genes is None else _unpacked(genes), **settings)
            if request.trie is not None and not 1 <= request.n_genes <= len(request.trie.genes):
                raise ValueError(f"{request.n_genes} of {len(request.trie.genes)} genes")
        except (ValueError, TypeError, KeyError, AttributeError, zlib.error) as error:
            raise ValueError(f"{ANSWER} cannot be read: {error}") from error
        return request


_SETTINGS = tuple(field.name for field in fields(AnswerRequest) if field.name != "trie")


@lru_cache(maxsize=16)
def _packed(trie: GeneTrie) -> str:
    """Token ids of the genes of a trie, as text."""
    tables = trie.token[trie.nodes[: trie.first_root + 1]]
    rows = [[[token for token in row if token >= 0] for row in table] for table in tables.tolist()]
    return base64.b64encode(zlib.compress(json.dumps(rows).encode())).decode()


@lru_cache(maxsize=16)
def _unpacked(text: str) -> GeneTrie:
    later, *first = json.loads(zlib.decompress(base64.b64decode(text)))
    return GeneTrie([str(gene) for gene in range(len(later))], later, *first)


class AnswerGuide:
    """Tokens of one answer. A call is for the tokens so far: any beginning of the answer, in any order of calls.

    Parameters
    ----------
    vocabulary
        Number of tokens of the model.
    """

    def __init__(self, request: AnswerRequest, vocabulary: int) -> None:
        self.request, self.vocabulary = request, vocabulary
        self._guide: Guide | None = None
        self._seen: list[int] = []

    def allowed(self, written: Sequence[int]) -> NDArray[np.int64] | None:
        """Tokens that may follow `written`, int64, ascending; ``None``: all.

        After the last gene this is the end-of-text token.

        Raises
        ------
        ValueError
            `written` is not the beginning of an answer.
        """
        if self.request.trie is None:
            return None
        guide = self._at(written)
        if guide.done(0):
            return guide.columns[:1] if self.request.end is None else np.array([self.request.end], dtype=np.int64)
        return np.array(guide.allowed_tokens(0), dtype=np.int64)

    def is_done(self, written: Sequence[int]) -> bool:
        """Whether a guided answer has all its genes."""
        return self._at(written).done(0)

    def choose(self, logits_V: torch.Tensor, written: Sequence[int]) -> int:
        """The token after `written`, greedy or drawn.

        Parameters
        ----------
        logits_V
            Logits of the vocabulary, float32 (V,).
        """
        import torch

        from cell2sen.engine.decoding.sampling import draw

        allowed = self.allowed(written)
        if allowed is not None and len(allowed) == 1:
            return int(allowed[0])
        tokens_C = torch.arange(len(logits_V)) if allowed is None else torch.from_numpy(allowed)
        tokens_C = tokens_C.to(logits_V.device)
        key, position = (torch.tensor([number], device=logits_V.device) for number in (self.request.key, len(written)))
        request = self.request
        column = draw(
            logits_V[tokens_C][None], key, position, tokens_C,
            temperature=request.temperature, top_k=request.top_k, top_p=request.top_p,
        )  # fmt: skip
        return int(tokens_C[column[0]])

    def force(self, logits_V: torch.Tensor, written: Sequence[int]) -> None:
        """Change the logits in place so that :meth:`choose` is the only token left."""
        token = self.choose(logits_V, written)
        logits_V.fill_(-float("inf"))
        logits_V[token] = 0.0

    def genes(self, written: Sequence[int]) -> list[int]:
        """Genes of an answer, as numbers in the list of the trie; what comes after the last gene is left out."""
        guide = self._new()
        for token in written:
            if guide.done(0):
                break
            guide.advance(0, int(token))
        # An engine may leave out the token that ended the answer.
        if not guide.done(0) and (ends := set(guide.allowed_tokens(0)) & set(self.request.ends)):
            guide.advance(0, min(ends))
        return guide.written[0]

    def _at(self, written: Sequence[int]) -> Guide:
        """The guide after `written`, from where it was if that is a beginning."""
        n = len(self._seen)
        if self._guide is None or list(written[:n]) != self._seen:
            self._guide, n = self._new(), 0
        try:
            for token in written[n:]:
                if not self._guide.done(0):
                    self._guide.advance(0, int(token))
        except ValueError:
            self._guide, self._seen = None, []
            raise
        self._seen = list(written)
        return self._guide

    def _new(self) -> Guide:
        assert self.request.trie is not None
        return Guide(self.request.trie, [self.request.n_genes], self.request.ends, self.vocabulary)
