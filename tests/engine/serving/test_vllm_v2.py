"""The logits processor for vLLM's model runner V2, called as the runner calls it; skipped without vLLM."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed; `make vllm-test` installs a build for CPUs")

from vllm_params import params

from cell2sen.engine.decoding.answer_guide import ANSWER, AnswerRequest
from cell2sen.engine.decoding.gene_trie import GeneTrie
from cell2sen.engine.serving.vllm_v2 import GuidedAnswers

REQUEST = AnswerRequest(key=1, trie=GeneTrie(["A", "B", "C"], [[1, 2], [3], [4]]), n_genes=2, ends=(0,), end=0)
EVERYTHING = list(range(6))


class States:
    """Tokens of slots: prompts of two tokens, then answers."""

    vocab_size = 6

    def __init__(self, **answers: list[int]) -> None:
        ids, total, prompt = torch.zeros((4, 12), dtype=torch.int32), torch.zeros(4, dtype=torch.int32), np.full(4, 2)
        for slot, answer in answers.items():
            number = int(slot.removeprefix("slot"))
            ids[number, : 2 + len(answer)] = torch.tensor([5, 5, *answer])
            total[number] = 2 + len(answer)
        self.all_token_ids, self.total_len = SimpleNamespace(gpu=ids), SimpleNamespace(gpu=total)
        self.prompt_len = SimpleNamespace(np=prompt)


def context(rows: list[tuple[int, int, int]]) -> SimpleNamespace:
    """Rows as (slot, place among the rows of the request, token that is read)."""
    slots, places, ids = map(list, zip(*rows, strict=True))
    return SimpleNamespace(
        expanded_idx_mapping=torch.tensor(slots), expanded_local_pos=torch.tensor(places), input_ids=torch.tensor(ids),
        idx_mapping_np=np.array(list(dict.fromkeys(slots))),
    )  # fmt: skip


def left(guided: GuidedAnswers, rows: list[tuple[int, int, int]]) -> list[list[int]]:
    logits = guided.apply(torch.tensor([[0.0, 1, 2, 3, 2, 9]] * len(rows)), context(rows))
    return [torch.flatten(torch.nonzero(torch.isfinite(row))).tolist() for row in logits]


def test_rows_of_a_batch() -> None:
    guided = GuidedAnswers(None, States(slot0=[], slot3=[3, 1]))
    assert guided.add_request(0, params(**REQUEST.arguments()))
    assert guided.add_request(3, params(**REQUEST.arguments()))
    assert not guided.add_request(1, params())
    assert left(guided, [(1, 0, 5)]) == [EVERYTHING]
    assert left(guided, [(3, 0, 1), (1, 0, 5), (0, 0, 5)]) == [[2], EVERYTHING, [3]]
    assert not guided.add_request(3, params()), "the slot has another request now"
    assert left(guided, [(3, 0, 1), (0, 0, 5)]) == [EVERYTHING, [3]]


def test_rows_of_draft_tokens() -> None:
    guided = GuidedAnswers(None, States(slot0=[3], slot1=[]))
    for slot in (0, 1):
        guided.add_request(slot, params(**REQUEST.arguments()))
    # The first row reads the last token of the answer, the others its drafts 1, 2.
    assert left(guided, [(1, 0, 5), (0, 0, 3), (0, 1, 1), (0, 2, 2)]) == [[3], [4], [2], [0]]
    # A draft that is not allowed, and one after it.
    assert left(guided, [(0, 0, 3), (0, 1, 5), (0, 2, 1)]) == [[4], EVERYTHING, EVERYTHING]


def test_tokens_that_the_engine_must_not_have_written() -> None:
    guided = GuidedAnswers(None, States(slot0=[2]))
    guided.add_request(0, params(**REQUEST.arguments()))
    with pytest.raises(ValueError, match="not allowed"):
        left(guided, [(0, 0, 2)])


def test_requests_that_cannot_be_read() -> None:
    GuidedAnswers.validate_params(params())
    with pytest.raises(ValueError, match=f"{ANSWER} cannot be read"):
        GuidedAnswers.validate_params(params(**{ANSWER: "?"}))
