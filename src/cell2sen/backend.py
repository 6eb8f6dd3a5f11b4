"""Backend contract: embed, generate, score, expect; Sampling, Embeddings, Unsupported."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cell2sen.model import Model
from cell2sen.prompt import Prompt

Pooling = Literal["mean", "genes", "last"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


class Unsupported(NotImplementedError):
    """A backend does not have this verb, or not in this form."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn. Temperature 0 is greedy.

    Rows are seeded by ``(seed, prompt.key)``, never by their place in a batch.
    """

    max_new_tokens: int = 32
    """Limit for unguided answers; guided answers end with their last gene."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these strings; end of text always ends it."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, found {self.max_new_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, found {self.temperature}; 0 is greedy")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, found {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], found {self.top_p}")


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionMap:
    """Gene-level attention within one prompt, in one layer."""

    genes: tuple[str, ...]
    cells: tuple[str | None, ...]
    """Cell of each gene; ``None`` for genes of a list that is no cell."""

    array: NDArray[np.float32]
    """float32 (heads, genes, genes): how much the row's gene attends to the column's gene. Attention to a gene is the
    sum over the gene's tokens, attention of a gene the mean over its tokens; the rest goes to other words, so rows sum
    to at most 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
    """Result of :meth:`Backend.embed`, rows in the order of the prompts."""

    vectors: NDArray[np.float32]
    """float32 (n, hidden)."""

    genes_used: NDArray[np.int64]
    """int64 (n,): genes of each prompt that fitted into the context."""

    attention: list[AttentionMap | None] | None = None
    """One entry a prompt, ``None`` without a map; ``None`` if no maps were requested."""


class Backend(abc.ABC):
    """Four verbs over prompts. The only object with state; every result depends on its own row alone."""

    model: Model

    context: int
    """Tokens that prompt and answer may have together."""

    n_layers: int = 0
    """Layers of the network, from which :meth:`embed` can return vectors and maps."""

    softcap: float | None = None
    """Soft-cap of the attention scores that is applied, None if the model has none."""

    batch_size: int | None = None
    """Prompts in a batch, None for as many as fit. May be assigned; changes the speed only and may be ignored."""

    progress: bool = False
    """Show a progress bar on stderr for long work. May be assigned, and ignored."""

    def provenance(self) -> dict[str, Any]:
        """Model and settings that change the numbers, as plain values for ``adata.uns``."""
        return self.model.provenance() | {"softcap": float(self.softcap or 0.0)}

    @abc.abstractmethod
    def embed(
        self,
        prompts: Sequence[Prompt],
        *,
        pooling: Pooling = "mean",
        layer: int = -1,
        attention_for: Sequence[int] = (),
        attention_layer: int = -1,
    ) -> Embeddings:
        """Cell vectors, and gene-level attention maps on request.

        Parameters
        ----------
        pooling
            ``"mean"`` over all real tokens, ``"genes"`` over gene tokens only, ``"last"`` real token.
        layer
            ``-1``: the last layer, after the final norm. ``k >= 0``: the hidden state after `k` layers, before any
            final norm (0: token embeddings; ``k = number of layers`` is the last layer's output before the norm).
        attention_for
            Row numbers that get an attention map.
        attention_layer
            0-based layer of the attention maps; negative counts from the end.
        """

    @abc.abstractmethod
    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, genes: Sequence[str] | None = None
    ) -> list[str]:
        """Answers, new text only.

        With `genes` the answer is guided: exactly ``prompt.answer_genes`` of these genes, each at most once.
        """

    @abc.abstractmethod
    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> NDArray[np.float64]:
        """Log-probabilities in nats, float64 (n prompts, n answers), summed over the answer's tokens.

        An answer's text begins where the prompt ends (with its space, if it has one).
        """

    def expect(
        self, prompts: Sequence[Prompt], genes: Sequence[str], rank_values: NDArray[np.float64], *, seed: int = 0
    ) -> NDArray[np.float32]:
        """Expected value of each of `genes` in a guided answer drawn at temperature 1, float32 (n, genes).

        A gene at rank r, from 0, has the value ``rank_values[r]``; a gene that is not in the answer has the value 0. An
        answer has ``prompt.answer_genes`` genes, each at most once. The draws depend on `seed` and the prompt's key.
        """
        raise Unsupported(f"{type(self).__name__} has no probabilities of genes; use the backend transformers")

    def known_genes(self, symbols: Sequence[str]) -> NDArray[np.bool_]:
        """Which symbols the model can write, bool (n,). By default all."""
        return np.ones(len(symbols), dtype=bool)

    def count_tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each text, int64 (n,), without a beginning-of-text token."""
        raise Unsupported(f"{type(self).__name__} does not count tokens; use the backend transformers")


def check_embed(
    n_prompts: int, n_layers: int, *, pooling: str, layer: int, attention_for: Sequence[int], attention_layer: int
) -> None:
    """Raises if arguments of :meth:`Backend.embed` are out of range, with the same messages in all backends.

    Raises
    ------
    ValueError
        No such pooling, layer or row; lists what is available.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"no pooling {pooling!r}; available: {list(POOLINGS)}")
    if not -1 <= layer <= n_layers:
        raise ValueError(f"no layer {layer}; available: -1 (after the final norm), 0 (token embeddings) to {n_layers}")
    if not -n_layers <= attention_layer < n_layers:
        raise ValueError(f"no layer {attention_layer} for attention maps; available: 0 to {n_layers - 1}")
    if beyond := [row for row in attention_for if not 0 <= row < n_prompts]:
        raise ValueError(f"attention_for has the rows {beyond}, but there are {n_prompts} prompts")


def answer_lengths(prompts: Sequence[Prompt], genes: Sequence[str]) -> list[int]:
    """Number of genes in each guided answer.

    Raises
    ------
    ValueError
        A prompt without this number, or with more genes than there are.
    """
    for prompt in prompts:
        if not 1 <= (prompt.answer_genes or 0) <= len(genes):
            raise ValueError(
                f"a guided answer has 1 to {len(genes)} genes, each once; prompt {prompt.key!r} has answer_genes="
                f"{prompt.answer_genes}"
            )
    return [prompt.answer_genes or 0 for prompt in prompts]
