"""AnswerTrainer: trl's supervised trainer with a loss in which each answer counts the same."""

from __future__ import annotations

from typing import Any

import torch
from trl import SFTTrainer


class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
    """Mean over samples of (mean loss of the answer's tokens + `prompt_loss` × mean loss of the prompt's tokens).

    trl averages over tokens, so that a label of three tokens counts nothing beside a cell sentence of two hundred. Hidden
    states are computed once and the LM head runs only where a loss is taken; `loss_tokens` limits that to so many tokens of
    each prompt and each answer, drawn at random at every visit (an unbiased estimate of the mean, several times cheaper
    for a large vocabulary).
    """

    def __init__(self, *args: Any, prompt_loss: float = 0.0, loss_tokens: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prompt_loss = prompt_loss
        self.loss_tokens = loss_tokens
        # The loss is a mean already: the trainer has to divide it by the accumulation steps.
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """The loss of one batch; `labels` are -100 outside the answers."""
        causal = self.accelerator.unwrap_model(model)
        causal = causal.get_base_model() if hasattr(causal, "get_base_model") else causal
        ids_BL, mask_BL, labels_BL = inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
        # Behind right padding nothing attends to the padding, so the mask can go, and the fast causal kernel is used.
        mask = mask_BL if not bool(mask_BL[:, 0].all()) else None
        hidden_BLD = causal.base_model(input_ids=ids_BL, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]
        next_BL = ids_BL[:, 1:]
        answer_BL = labels_BL[:, 1:] != -100
        limit = self.loss_tokens if model.training else None
        loss = _mean_of_samples(causal, hidden_BLD, next_BL, _draw(answer_BL, limit))
        if self.prompt_loss and model.training:
            prompt_BL = mask_BL[:, 1:].bool() & ~answer_BL
            loss = loss + self.prompt_loss * _mean_of_samples(causal, hidden_BLD, next_BL, _draw(prompt_BL, limit))
        return (loss, {"loss": loss}) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Any, None, None]:
        """Evaluation needs the loss only."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None


def _draw(chosen_BL: torch.Tensor, limit: int | None) -> torch.Tensor:
    """At most `limit` of the chosen tokens of each row."""
    if limit is None:
        return chosen_BL
    noise_BL = torch.rand(chosen_BL.shape, device=chosen_BL.device).masked_fill(~chosen_BL, 2.0)
    return chosen_BL & (noise_BL.argsort(dim=1).argsort(dim=1) < limit)


def _mean_of_samples(causal: Any, hidden_BLD: torch.Tensor, next_BL: torch.Tensor, chosen_BL: torch.Tensor) -> torch.Tensor:
    logits_NV = causal.get_output_embeddings()(hidden_BLD[chosen_BL]).float()
    cap = getattr(causal.config, "final_logit_softcapping", None)
    if cap:
        logits_NV = torch.tanh(logits_NV / cap) * cap
    loss_N = torch.nn.functional.cross_entropy(logits_NV, next_BL[chosen_BL], reduction="none")
    counts_B = chosen_BL.sum(dim=1)
    rows_N = torch.arange(len(chosen_BL), device=chosen_BL.device).repeat_interleave(counts_B)
    per_sample_B = torch.zeros(len(chosen_BL), device=loss_N.device).index_add(0, rows_N, loss_N)
    present_B = counts_B > 0
    return per_sample_B[present_B].div(counts_B[present_B]).sum() / max(1, int(present_B.sum()))
