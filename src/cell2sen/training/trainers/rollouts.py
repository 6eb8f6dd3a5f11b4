"""Rollouts: answers drawn by the transformers backend, with their token ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.backend import Sampling
from cell2sen.backends.transformers import TransformersBackend
from cell2sen.engine.decoding.constraint import Constraint, Plan
from cell2sen.engine.decoding.gene_trie import GeneTrie
from cell2sen.engine.decoding.guide import Guide
from cell2sen.engine.generation import Generator
from cell2sen.engine.network.causal_lm import Head
from cell2sen.prompt import Prompt


@dataclass(frozen=True, kw_only=True, eq=False)
class Guidance:
    """Constraint of the guided answers to one prompt."""

    trie: GeneTrie
    n_genes: int
    """Number of genes of an answer."""

    ends: tuple[int, ...]
    """Tokens that may end an answer."""

    def allowed(self, ids: Sequence[int], vocabulary: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Candidate tokens, int64 (K,), ascending, and which were allowed at each token of `ids`, bool (ids, K)."""
        guide, row = Guide(self.trie, [self.n_genes], self.ends, vocabulary), np.zeros(1, dtype=np.int64)
        masks = np.zeros((len(ids), len(guide.columns)), dtype=bool)
        for place, token in enumerate(ids):
            masks[place] = guide.allowed(row)[0]
            guide.advance(0, int(token))
        return guide.columns, masks


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """A drawn answer."""

    prompt_ids: list[int]
    ids: list[int]
    """Token ids of the answer."""

    text: str = ""
    guidance: Guidance | None = None
    """Constraint of the answer; ``None`` for free text."""


class TokenRecorder:
    """Constraint that records the tokens chosen for each row."""

    def __init__(self, constraint: Constraint, n_rows: int) -> None:
        self.constraint, self.columns = constraint, constraint.columns
        self.ids: list[list[int]] = [[] for _ in range(n_rows)]

    def done(self, row: int) -> bool:
        """Whether a row is complete."""
        return self.constraint.done(row)

    def plan(self, rows: Sequence[int]) -> Plan:
        """Next tokens to compute."""
        return self.constraint.plan(rows)

    def accept(
        self, plan: Plan, decided: NDArray[np.int64], logits_NC: torch.Tensor
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pass chosen tokens to the constraint, and record those that it accepts."""
        kept, new = self.constraint.accept(plan, decided, logits_NC)
        for row, tokens, n, token in zip(plan.rows.tolist(), plan.tokens, kept, new.tolist(), strict=True):
            self.ids[row] += [*tokens[:n], *([token] if token >= 0 else [])]
        return kept, new


class RecordingGenerator(Generator):
    """Generator that keeps rollouts by the prompt's key."""

    rollouts: dict[str, Rollout]

    def _generate(
        self, prompts: Sequence[Prompt], constraint: Constraint, head: Head, sampling: Sampling, capacity: int
    ) -> None:
        recorder = TokenRecorder(constraint, len(prompts))
        super()._generate(prompts, recorder, head, sampling, capacity)
        for row, (prompt, tokenized) in enumerate(zip(prompts, self._tokenize(prompts), strict=True)):
            guidance = None
            if isinstance(constraint, Guide):
                ends = tuple(self.tries.ends(constraint.trie.genes[0], sampling.stop))
                guidance = Guidance(trie=constraint.trie, n_genes=int(constraint.n_genes[row]), ends=ends)
            self.rollouts[prompt.key] = Rollout(
                prompt_ids=tokenized.ids.tolist(), ids=recorder.ids[row], guidance=guidance
            )


class RolloutBackend(TransformersBackend):
    """Transformers backend that also returns the token ids of its answers."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.generator = RecordingGenerator(
            self.causal, self.tokens, eos=self.eos, tokenize=self._tokenize, run=self._run_generating
        )

    def roll(self, prompts: Sequence[Prompt], sampling: Sampling, genes: Sequence[str] | None) -> list[Rollout]:
        """Answers of :meth:`generate` as rollouts. Keys of the prompts must differ."""
        assert isinstance(self.generator, RecordingGenerator)
        self.generator.rollouts = {}
        texts = self.generate(prompts, sampling, genes=genes)
        rollouts = self.generator.rollouts
        return [
            dataclasses.replace(rollouts[prompt.key], text=text) for prompt, text in zip(prompts, texts, strict=True)
        ]
