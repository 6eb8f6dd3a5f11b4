"""Fake backend without a model: reproducible results from hashes, for tests.

Words count as tokens. Cells that share genes have similar vectors; the results mean nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cell2sen.backend import (
    AttentionMap,
    Backend,
    Embeddings,
    Pooling,
    RankValues,
    Sampling,
    answer_lengths,
    check_embed,
)
from cell2sen.engine.tokenization.tokenizer import fit
from cell2sen.model import Model
from cell2sen.prompt import Prompt

#: Number of drawn answers whose mean is the expected value.
_ANSWERS = 8

#: Words of free answers.
_WORDS = ("T", "B", "NK", "cell", "monocyte", "dendritic", "naive", "CD4", "CD8", "memory")


def load(
    model: Model,
    *,
    batch_size: int | None = None,
    progress: object = False,
    device: str = "cpu",
    offline: bool = True,
    context: int = 4096,
) -> FakeBackend:
    """Fake of any model. Options of real backends are accepted and change nothing.

    Parameters
    ----------
    context
        Words that prompt and answer may have together.
    """
    return FakeBackend(model, batch_size=batch_size, context=context)


def _hidden_size(model: Model) -> int:
    """Size of the model's vectors, which its gene part is scaled for; 16 for a model without files."""
    file = Path(model.path) / "config.json"
    if not model.is_local or not file.is_file():
        return 16
    return int(json.loads(file.read_text(encoding="utf-8")).get("hidden_size", 16))


class FakeBackend(Backend):
    """The contract of :class:`cell2sen.backend.Backend` without a model; parameters as of :func:`load`."""

    n_layers = 2
    n_heads = 2

    def __init__(self, model: Model, *, batch_size: int | None = None, context: int = 4096) -> None:
        self.model = model
        self.batch_size = batch_size
        self.context = context
        self.hidden = _hidden_size(model)

    def embed(
        self,
        prompts: Sequence[Prompt],
        *,
        pooling: Pooling = "mean",
        layer: int = -1,
        attention_for: Sequence[int] = (),
        attention_layer: int = -1,
    ) -> Embeddings:
        check_embed(
            len(prompts),
            self.n_layers,
            pooling=pooling,
            layer=layer,
            attention_for=attention_for,
            attention_layer=attention_layer,
        )
        fitted, _ = fit(prompts, context=self.context, reserved_tokens=[0] * len(prompts), count=_lengths)
        vectors = np.zeros((len(fitted), self.hidden), dtype=np.float32)
        for row, prompt in enumerate(fitted):
            words = list(prompt.genes) if pooling == "genes" else prompt.text.split()
            if not words:
                raise ValueError(f"pooling {pooling!r} needs at least one word in each prompt; {prompt.key!r} has none")
            words = words[-1:] if pooling == "last" else words
            vectors[row] = np.mean([_vector(layer, word, self.hidden) for word in words], axis=0)
        map_rows = set(attention_for)
        maps = [
            self._attention(prompt, attention_layer % self.n_layers) if row in map_rows else None
            for row, prompt in enumerate(fitted)
        ]
        genes_used = np.array([len(prompt.genes) for prompt in fitted], dtype=np.int64)
        return Embeddings(vectors=vectors, genes_used=genes_used, attention=maps if map_rows else None)

    def _attention(self, prompt: Prompt, layer: int) -> AttentionMap:
        n_genes = len(prompt.genes)
        raw = _random(layer, prompt.text).random((self.n_heads, n_genes, n_genes)) * np.tri(n_genes)
        array = 0.9 * raw / np.maximum(raw.sum(axis=2, keepdims=True), 1e-9)
        return AttentionMap(genes=tuple(prompt.genes), cells=prompt.cells, array=array.astype(np.float32))

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, genes: Sequence[str] | None = None
    ) -> list[str]:
        listed = None if genes is None else list(dict.fromkeys(genes))
        n_words = [sampling.max_new_tokens] * len(prompts) if listed is None else answer_lengths(prompts, listed)
        fitted, _ = fit(prompts, context=self.context, reserved_tokens=n_words, count=_lengths)
        texts = []
        for prompt, number in zip(fitted, n_words, strict=True):
            # Greedy answers depend on the prompt; drawn ones on the prompt, the seed and the row's key.
            seed = (sampling.temperature, sampling.seed, prompt.key) if sampling.temperature else ()
            random = _random(prompt.text, *seed)
            if listed is None:
                text = " ".join(random.choice(_WORDS, size=number))
                stops = (start for stop in (*sampling.stop, *self.model.stop) if (start := text.find(stop)) >= 0)
                texts.append(text[: min(stops, default=len(text))].strip())
                continue
            texts.append(" ".join(listed[gene] for gene in random.permutation(len(listed))[:number]))
        return texts

    def score(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *, margin: float | None = None
    ) -> NDArray[np.float64]:
        longest = max((len(answer.split()) for answer in answers), default=0)
        fitted, _ = fit(prompts, context=self.context, reserved_tokens=[longest] * len(prompts), count=_lengths)
        scores = np.zeros((len(fitted), len(answers)), dtype=np.float64)
        for row, prompt in enumerate(fitted):
            for column, answer in enumerate(answers):
                words = answer.split()
                costs = [_random(prompt.text, *words[: place + 1]).exponential() for place in range(len(words))]
                scores[row, column] = -sum(costs)
        return scores

    def expect(
        self, prompts: Sequence[Prompt], genes: Sequence[str], rank_values: RankValues, *, seed: int = 0
    ) -> NDArray[np.float32]:
        expected, n_genes = np.zeros((len(prompts), len(genes)), dtype=np.float32), answer_lengths(prompts, genes)
        fitted, _ = fit(prompts, context=self.context, reserved_tokens=n_genes, count=_lengths)
        for row, (prompt, number) in enumerate(zip(fitted, n_genes, strict=True)):
            random = _random(prompt.text, seed, prompt.key)
            for _ in range(_ANSWERS):
                expected[row, random.permutation(len(genes))[:number]] += rank_values[row][:number] / _ANSWERS
        return expected

    def known_genes(self, symbols: Sequence[str]) -> NDArray[np.bool_]:
        """Which symbols are single words and in the model's gene list (if it has one), bool (n,)."""
        listed = None if self.model.genes is None else frozenset(self.model.genes)
        known = [symbol.split() == [symbol] and (listed is None or symbol in listed) for symbol in symbols]
        return np.array(known, dtype=bool)

    def count_tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        return np.array([len(text.split()) for text in texts], dtype=np.int64)


def _lengths(prompts: Sequence[Prompt]) -> NDArray[np.int64]:
    return np.array([len(prompt.text.split()) for prompt in prompts], dtype=np.int64)


@lru_cache(maxsize=2**16)
def _vector(layer: int, word: str, size: int) -> NDArray[np.float64]:
    """Vector of a word."""
    return _random(layer, word).standard_normal(size)


def _random(*seed: object) -> np.random.Generator:
    """Random generator seeded with a hash of these values."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(seed).encode()).digest()[:8], "little"))
