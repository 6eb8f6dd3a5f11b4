"""Supervised fine-tuning: trl's trainer, with a weight for each answer.

Axes in names: B batch, L length, D hidden size, N tokens with a loss, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from trl.trainer.sft_trainer import SFTTrainer

from cell2sen.training.network.loading import without_adapters
from cell2sen.training.network.token_loss import draw_tokens, mean_of_samples
from cell2sen.training.processes import within_wrapper
from cell2sen.training.trainers.checkpoints import Restoring
from cell2sen.training.trainers.packing import packed_hidden
from cell2sen.training.trainers.token_batches import (
    IGNORED,
    MAX_LABEL_TOKENS,
    SORTED_BATCHES,
    GroupedOrder,
)


class AnswerTrainer(Restoring, SFTTrainer):
    """trl's trainer with the loss: mean over samples of (answer's loss + `prompt_loss` × mean loss of prompt tokens).

    The loss of an answer is the mean over its tokens, times the weight of the sample
    (:func:`cell2sen.training.trainers.token_batches.answer_weight`; without one that of a label or sentence). trl
    averages over all tokens of a batch. The LM head is
    computed only for tokens with a loss. `loss_tokens` limits these to a random sample of each prompt and each answer
    (an unbiased estimate, several times cheaper for a large vocabulary). With `packing` samples share rows, see
    :func:`cell2sen.training.trainers.packing.packed_hidden`.
    """

    def __init__(
        self,
        *args: Any,
        prompt_loss: float = 0.0,
        loss_tokens: int | None = None,
        packing: bool = False,
        packed_tokens: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.prompt_loss = prompt_loss
        self.loss_tokens = loss_tokens
        self.packing = packing
        self.packed_tokens = packed_tokens
        # The loss is a mean, so the trainer must divide it by the number of accumulated batches.
        self.model_accepts_loss_kwargs = False
        self.data_collator = WithWeights(self.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        parent: Any = super()  # typed in parts only
        parent._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        if "weight" not in columns:
            columns.append("weight")

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Loss of one batch; `labels` are :data:`IGNORED` outside the answers."""
        return within_wrapper(self.accelerator, model, lambda whole: self._loss(whole, inputs, return_outputs))

    def _loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        causal = without_adapters(model)
        ids_BL, mask_BL, labels_BL = inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
        # The causal mask hides padding on the right; without another mask the fast causal kernel is used.
        mask = mask_BL if not bool(mask_BL[:, 0].all()) else None
        next_BL = ids_BL[:, 1:]
        real_BL = mask_BL[:, 1:].bool() & mask_BL[:, :-1].bool()
        answer_BL = (labels_BL[:, 1:] != IGNORED) & real_BL
        limit = self.loss_tokens if model.training else None
        length_B = answer_BL.sum(dim=1)
        weight_B = inputs.get("weight")
        if weight_B is None:
            weight_B = torch.where(length_B <= MAX_LABEL_TOKENS, length_B, 1)
        # transformers enters autocast in the forward of the whole model, which is not called here.
        with self.accelerator.autocast():
            if self.packing:
                hidden_BLD = packed_hidden(causal.base_model, ids_BL, mask_BL.bool(), self.packed_tokens)[:, :-1]
            else:
                states = causal.base_model(input_ids=ids_BL, attention_mask=mask, use_cache=False)
                hidden_BLD = states.last_hidden_state[:, :-1]
            loss = mean_of_samples(causal, hidden_BLD, next_BL, draw_tokens(answer_BL, limit), weight_B)
            if self.prompt_loss and model.training:
                chosen_BL = draw_tokens(real_BL & ~answer_BL, limit)
                loss = loss + self.prompt_loss * mean_of_samples(causal, hidden_BLD, next_BL, chosen_BL)
        return (loss, {"loss": loss}) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Any, None, None]:
        """Loss of a held-out batch; no logits are kept."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """Loss of the held-out samples. Of several processes each takes all: shared, some would count twice."""
        if self.accelerator.num_processes == 1:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        rows: Any = self._remove_unused_columns(dataset, description="evaluation")
        size = int(self.args.per_device_eval_batch_size)
        model: Any = self.model  # with DDP without its wrapper, with FSDP with it
        model.eval()
        total = 0.0
        for batch in torch.utils.data.DataLoader(rows, batch_size=size, collate_fn=self.data_collator):
            total += float(self.prediction_step(model, batch, True, None)[0]) * len(batch["input_ids"])
        metrics = {f"{metric_key_prefix}_loss": total / max(1, len(rows))}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_train_sampler(self, train_dataset: Any = None) -> GroupedOrder:
        # `train_dataset` lacks the columns that the model does not read, such as the length.
        dataset: Any = self.train_dataset
        batch_size = int(self.args.per_device_train_batch_size)
        # Packed samples need no similar length.
        together = 1 if self.packing else SORTED_BATCHES
        return GroupedOrder(dataset["length"][:], batch_size, int(self.args.data_seed or 0), together)


class WithWeights:
    """A collator that also collects the weights of samples, if they have some, float32 (B,)."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch."""
        weights = [row["weight"] for row in rows if "weight" in row]
        batch = self.collate([{name: value for name, value in row.items() if name != "weight"} for row in rows])
        return {**batch, "weight": torch.tensor(weights, dtype=torch.float32)} if weights else batch
