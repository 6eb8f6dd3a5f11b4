"""Logits processor for vLLM's model runner V2, of GPUs from vLLM 0.32 on: as for V1.

``vllm serve MODEL --logits-processors cell2sen.engine.serving.vllm_v2:GuidedAnswers``

Rows of one request that check several draft tokens are each guided by the tokens before them.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.worker.gpu.sample import logits_processor as interface

from cell2sen.engine.decoding.answer_guide import AnswerGuide, AnswerRequest


class GuidedAnswers(interface.LogitsProcessor):  # type: ignore[misc]
    """Leaves one token of each request that carries an :class:`AnswerRequest`; vLLM takes it at temperature 0."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self.states = req_states
        self.vocabulary = int(req_states.vocab_size)
        self.answers: dict[int, AnswerGuide] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise a ValueError for a request that cannot be read; a server then answers 400."""
        AnswerRequest.read(sampling_params.extra_args)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Begin a request in a slot, and forget the one that had it before."""
        request = AnswerRequest.read(sampling_params.extra_args)
        self.answers.pop(req_idx, None)
        if request is not None:
            self.answers[req_idx] = AnswerGuide(request, self.vocabulary)
        return request is not None

    def apply(self, logits: Any, ctx: Any) -> Any:
        """Change the logits (rows, vocabulary) in place."""
        if not any(slot in self.answers for slot in ctx.idx_mapping_np.tolist()):
            return logits
        slots, places = ctx.expanded_idx_mapping.tolist(), ctx.expanded_local_pos.tolist()
        drafts, totals = ctx.input_ids.tolist(), self.states.total_len.gpu.tolist()
        for row, (slot, place) in enumerate(zip(slots, places, strict=True)):
            guide = self.answers.get(slot)
            if guide is None:
                continue
            written = self.states.all_token_ids.gpu[slot, int(self.states.prompt_len.np[slot]) : totals[slot]].tolist()
            try:
                guide.force(logits[row], written + drafts[row - place + 1 : row + 1])
            except ValueError:
                if not place:
                    raise
                # After a draft that is not allowed, and so will be rejected with all that follows it.
        return logits
