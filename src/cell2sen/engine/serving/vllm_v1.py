"""Logits processor for vLLM's model runner V1: guided and drawn answers of this package within vLLM.

``vllm serve MODEL --logits-processors cell2sen.engine.serving.vllm_v1:GuidedAnswers``
"""

from __future__ import annotations

from typing import Any

from vllm.v1.sample import logits_processor as interface

from cell2sen.engine.decoding.answer_guide import AnswerGuide, AnswerRequest


class GuidedAnswers(interface.LogitsProcessor):  # type: ignore[misc]
    """Leaves one token of each request that carries an :class:`AnswerRequest`; vLLM takes it at temperature 0."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self.vocabulary = int(vllm_config.model_config.get_vocab_size())
        #: Of each row of the batch with a guide: the guide, and the tokens so far, a list that vLLM extends.
        self.answers: dict[int, tuple[AnswerGuide, list[int]]] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise a ValueError for a request that cannot be read; a server then answers 400."""
        AnswerRequest.read(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        """Whether greedy answers stay the same: no."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow requests that begin, end or change their row."""
        interface.process_dict_updates(self.answers, batch_update, self._answer)

    def apply(self, logits: Any) -> Any:
        """Change the logits (rows, vocabulary) in place."""
        for row, (guide, written) in self.answers.items():
            guide.force(logits[row], written)
        return logits

    def _answer(self, params: Any, _: Any, written: list[int]) -> tuple[AnswerGuide, list[int]] | None:
        request = AnswerRequest.read(params.extra_args)
        return None if request is None else (AnswerGuide(request, self.vocabulary), written)
