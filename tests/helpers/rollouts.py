"""Guided answers of tiny random models, and the slow twin of their probabilities."""

from __future__ import annotations

from typing import Any

import tiny
import torch

from cell2sen.engine.decoding.guide import Guide
from cell2sen.model import Model
from cell2sen.training.trainers import answer_log_probs
from cell2sen.training.trainers.rollouts import Rollout, RolloutBackend

GENES = [gene for gene in tiny.GENES if gene.isascii()]
KINDS = [("gemma2", "spm"), ("gpt_neox", "bytes"), ("gpt_neox", "genes")]


def rollout_backend(architecture: str, kind: str, **options: Any) -> RolloutBackend:
    tokens = tiny.tokens(kind)
    network = tiny.network(architecture, tokens.tokenizer.get_vocab_size())
    model = Model(name="tiny", path="tiny", dtype="float32")
    return RolloutBackend(model, network, tokens, **{"progress": False} | options)


def padded(rollouts: list[Rollout]) -> tuple[torch.Tensor, torch.Tensor, int]:
    return answer_log_probs.padded([rollout.prompt_ids for rollout in rollouts], [rollout.ids for rollout in rollouts])


def guidance_of(rollouts: list[Rollout]) -> dict[bytes, Any]:
    return {answer_log_probs.prompt_key(rollout.prompt_ids): rollout.guidance for rollout in rollouts}


def slow_log_probs(network: Any, rollout: Rollout, temperature: float) -> torch.Tensor:
    """Log-probability of each token from one forward pass per token, over the allowed tokens one by one."""
    values = []
    guide = None
    if rollout.guidance is not None:
        guidance = rollout.guidance
        guide = Guide(guidance.trie, [guidance.n_genes], guidance.ends, network.config.vocab_size)
    for position, token in enumerate(rollout.ids):
        ids = torch.tensor([rollout.prompt_ids + rollout.ids[:position]])
        logits = network(input_ids=ids).logits[0, -1].float()
        allowed = range(len(logits)) if guide is None else guide.allowed_tokens(0)
        assert token in allowed
        total = torch.logsumexp(torch.stack([logits[t] / temperature for t in allowed]), 0)
        values.append(logits[token] / temperature - total)
        if guide is not None:
            guide.advance(0, token)
    return torch.stack(values)
