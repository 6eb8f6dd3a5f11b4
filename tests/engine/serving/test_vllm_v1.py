"""The logits processor for vLLM's model runner V1, called as the runner calls it; skipped without vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed; `make vllm-test` installs a build for CPUs")

from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm_params import params

from cell2sen.engine.decoding.answer_guide import ANSWER, AnswerRequest
from cell2sen.engine.decoding.gene_trie import GeneTrie
from cell2sen.engine.serving.vllm_v1 import GuidedAnswers

REQUEST = AnswerRequest(key=1, trie=GeneTrie(["A", "B", "C"], [[1, 2], [3], [4]]), n_genes=2, ends=(0,), end=0)


def processor() -> GuidedAnswers:
    config = SimpleNamespace(model_config=SimpleNamespace(get_vocab_size=lambda: 6))
    return GuidedAnswers(config, torch.device("cpu"), False)


def update(**changes: Any) -> BatchUpdate:
    return BatchUpdate(**{"batch_size": 3, "removed": [], "added": [], "moved": []} | changes)


def left(logits: torch.Tensor) -> list[list[int]]:
    return [torch.flatten(torch.nonzero(torch.isfinite(row))).tolist() for row in logits]


def test_rows_of_a_batch() -> None:
    guided, written = processor(), [3]
    assert not guided.is_argmax_invariant()
    added = [
        (0, params(**REQUEST.arguments()), [5, 5], []),
        (1, params(), [5], []),
        (2, params(**REQUEST.arguments()), None, written),
    ]
    guided.update_state(update(added=added))
    logits = torch.tensor([[0.0, 1, 2, 3, 2, 9]] * 3)
    everything = list(range(6))
    assert left(guided.apply(logits.clone())) == [[3], everything, [4]], "greedy, each gene once"
    written.append(1)  # vLLM extends its list
    guided.update_state(None)
    assert left(guided.apply(logits.clone())) == [[3], everything, [2]]
    guided.update_state(update(moved=[(2, 1, MoveDirectionality.SWAP)]))
    assert left(guided.apply(logits.clone())) == [[3], [2], everything]
    guided.update_state(update(removed=[1]))
    assert left(guided.apply(logits.clone())) == [[3], everything, everything]


def test_requests_that_cannot_be_read() -> None:
    GuidedAnswers.validate_params(params())
    GuidedAnswers.validate_params(params(**REQUEST.arguments()))
    with pytest.raises(ValueError, match=f"{ANSWER} cannot be read"):
        GuidedAnswers.validate_params(params(**{ANSWER: "?"}))
