"""Backend contract: embed, generate, score, expect; Sampling, Embeddings, Unsupported."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.progress import Report
from cell2sen.model import Model
from cell2sen.prompt import Prompt

Pooling = Literal["mean", "genes", "last"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

#: A cell sentence ends before the first of these strings.
SENTENCE_END = (".\n", "\n")


#: Of each prompt, the value of a gene at each rank of its answer: float (at least ``prompt.answer_genes``,).
RankValues = Sequence[NDArray[np.floating[Any]]]


class Unsupported(NotImplementedError):
    """Error for a call that this backend, or this model, does not support."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling settings of answers. Temperature 0 is greedy.

    A row is seeded by ``(seed, prompt.key)``, not by its position in a batch.
    """

    max_new_tokens: int = 32
    """Limit for unguided answers; guided answers end with their last gene."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these strings, or with the end-of-text token."""

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
    """float32 (heads, genes, genes): attention of the row's gene to the column's gene, summed over the tokens of the
    attended gene, averaged over those of the attending gene. Rows sum to at most 1: the rest is attention to other
    words."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
    """Result of :meth:`Backend.embed`, rows in the order of the prompts."""

    vectors: NDArray[np.float32]
    """float32 (n, hidden)."""

    genes_used: NDArray[np.int64]
    """int64 (n,): number of genes of each prompt that fitted into the context."""

    attention: list[AttentionMap | None] | None = None
    """One entry per prompt, ``None`` without a map; ``None`` if no maps were requested."""


class Backend(abc.ABC):
    """Abstract backend: four verbs over prompts. The result of a row depends on that row alone."""

    model: Model

    context: int
    """Maximum number of tokens of prompt and answer together."""

    n_layers: int = 0
    """Number of layers, of each of which :meth:`embed` can return vectors and attention maps."""

    softcap: float | None = None
    """Soft-cap that is applied to the attention scores; ``None`` if the model has none."""

    chat: tuple[str, str] | None = None
    """Text before and after a user's message in the chat template of an instruction checkpoint; ``None`` without one.
    The verbs with text as answer put it around their prompts."""

    batch_size: int | None = None
    """Prompts in a batch; ``None``: as many as fit. May be assigned; a backend may ignore it. Changes no result."""

    progress: bool | Report = False
    """Show a progress bar on stderr for long work, or call a function (:data:`cell2sen.data.progress.Report`). May be
    assigned; a backend may ignore it."""

    def provenance(self) -> dict[str, Any]:
        """Model and settings that change results, as plain values for ``adata.uns``."""
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
            Numbers of the prompts that get an attention map.
        attention_layer
            0-based layer of the attention maps; negative counts from the end.
        """

    def embed_edited(
        self, prompts: Sequence[Prompt], bases: Sequence[Prompt], base_of: Sequence[int]
    ) -> NDArray[np.float32]:
        """Cell vectors of edited prompts, ``embed(prompts).vectors``, float32 (n, hidden).

        A backend may read the tokens that a prompt shares with its base once for all prompts of this base.

        Parameters
        ----------
        bases, base_of
            Unedited prompts, and the number of the one that each prompt was made from.
        """
        return self.embed(prompts).vectors

    @abc.abstractmethod
    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, genes: Sequence[str] | None = None
    ) -> list[str]:
        """Answers, new text only.

        With `genes` the answer is guided: exactly ``prompt.answer_genes`` of these genes, each at most once.
        """

    @abc.abstractmethod
    def score(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *, margin: float | None = None
    ) -> NDArray[np.float64]:
        """Log-probabilities in nats, float64 (n prompts, n answers), summed over the answer's tokens.

        An answer's text begins where the prompt ends (with its space, if it has one).

        Parameters
        ----------
        margin
            Answers that are less likely than the prompt's likeliest one by more than this need no exact value: any
            value from their log-probability to that of the likeliest less `margin` may be returned. A backend may
            ignore it. ``None``: all values are exact.
        """

    def expect(
        self, prompts: Sequence[Prompt], genes: Sequence[str], rank_values: RankValues, *, seed: int = 0
    ) -> NDArray[np.float32]:
        """Expected value of each of `genes` in a guided answer drawn at temperature 1, float32 (n, genes).

        In the answer to prompt i, a gene at rank r, from 0, has the value ``rank_values[i][r]``, and a gene that is not
        in the answer 0. An answer has ``prompt.answer_genes`` genes, each at most once. The draws depend on `seed` and
        the prompt's key.
        """
        raise Unsupported(f"{type(self).__name__} has no probabilities of genes; use the backend transformers")

    def known_genes(self, symbols: Sequence[str]) -> NDArray[np.bool_]:
        """Symbols that the model can write, bool (n,). By default all."""
        return np.ones(len(symbols), dtype=bool)

    def count_tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Number of tokens of each text, int64 (n,), without a beginning-of-text token."""
        raise Unsupported(f"{type(self).__name__} does not count tokens; use the backend transformers")


def check_embed(
    n_prompts: int, n_layers: int, *, pooling: str, layer: int, attention_for: Sequence[int], attention_layer: int
) -> None:
    """Check of the arguments of :meth:`Backend.embed`, with the same messages in all backends.

    Raises
    ------
    ValueError
        No such pooling, layer or row; lists the available ones.
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
        A prompt without this number, or a number above that of `genes`.
    """
    for prompt in prompts:
        if not 1 <= (prompt.answer_genes or 0) <= len(genes):
            raise ValueError(
                f"a guided answer has 1 to {len(genes)} genes, each once; prompt {prompt.key!r} has answer_genes="
                f"{prompt.answer_genes}"
            )
    return [prompt.answer_genes or 0 for prompt in prompts]
