"""Samples as a model reads them; trl's supervised trainer with a loss in which each answer counts the same.

Axes in names: B batch, L length, D hidden size, N tokens with a loss, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import TrainerCallback
from trl.trainer.sft_trainer import SFTTrainer

from cell2sen.engine.tokenization.tokenizer import Tokens, fit
from cell2sen.prompt import Prompt

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

#: Label of the tokens without a loss.
IGNORED = -100

#: An answer of so many tokens is one decision, a label: its whole log-likelihood is learned, of a longer one the mean.
LABEL_TOKENS = 16

#: Samples that are sorted by length together: batches are of one length, and still mixed.
_SORTED_TOGETHER = 50


def samples(rows: Sequence[tuple[str, Prompt, str]], tokens: Tokens, context: int) -> Dataset:
    """Training samples as the backends read them: prompt and answer tokenised together, one end of text behind them.

    Parameters
    ----------
    rows
        Task, prompt and completion. Prompts that are too long for the context lose genes; answers are never cut.
    tokens
        Of the model that is trained.
    context
        Tokens that a sample may have.

    Returns
    -------
    datasets.Dataset
        Columns ``task``, ``prompt``, ``completion``, ``input_ids``, ``labels`` (:data:`IGNORED` in the prompt) and
        ``length``.

    Raises
    ------
    ValueError
        An answer does not fit, even behind a prompt without genes.
    """
    from datasets import Dataset

    end = min(tokens.eos)
    prompts, completions = [row[1] for row in rows], [row[2] for row in rows]
    # Two more: the end of text, and a token that prompt and answer might have more together than apart.
    room = tokens.count(completions) + 2 if rows else np.zeros(0, dtype=np.int64)
    prompts, _ = fit(prompts, context=context, room=room, count=tokens.lengths)
    columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "length": []}
    for start in range(0, len(rows), 1024):
        part = slice(start, start + 1024)
        for row in tokens.encode(prompts[part], completions[part]):
            ids = np.append(row.ids, end).astype(np.int32)
            labels = ids.copy()
            labels[: row.answer] = IGNORED
            assert len(ids) <= context, f"a sample of {len(ids)} tokens in a context of {context}"
            for name, value in (("input_ids", ids), ("labels", labels), ("length", len(ids))):
                columns[name].append(value)
    return Dataset.from_dict(
        {
            "task": [row[0] for row in rows],
            "prompt": [prompt.text for prompt in prompts],
            "completion": completions,
            **columns,
        }
    )


class GroupedOrder(torch.utils.data.Sampler[int]):
    """A new order for each epoch, in which batches are of similar length and come at random.

    A function of seed and epoch alone, so that a resumed training goes on with the samples that it would have seen.

    Parameters
    ----------
    lengths
        Tokens of each sample.
    together
        Batches whose samples are sorted by length together.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, together: int = _SORTED_TOGETHER) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.together = together
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(len(self.lengths))
        chunk = self.together * self.batch_size
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(order), chunk):
            group = order[start : start + chunk]
            group = group[np.argsort(self.lengths[group], kind="stable")]
            batches += [group[first : first + self.batch_size] for first in range(0, len(group), self.batch_size)]
        # Only the last batch may be short, or all samples behind it would change batches.
        last = [batches.pop()] if batches and len(batches[-1]) < self.batch_size else []
        batches = [batches[place] for place in generator.permutation(len(batches))] + last
        return iter(np.concatenate(batches).tolist() if batches else [])


def rows_of(lengths: Sequence[int]) -> list[list[int]]:
    """Which samples share a row, in rows that are as long as the longest sample: first fit, the longest first."""
    order = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    rows: list[list[int]] = []
    room: list[int] = []
    for sample in order:
        place = next((place for place, left in enumerate(room) if left >= lengths[sample]), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(max(lengths))
        rows[place].append(sample)
        room[place] -= lengths[sample]
    return rows


def packed_hidden(base: Any, ids_BL: torch.Tensor, real_BL: torch.Tensor) -> torch.Tensor:
    """Hidden states of padded samples, (B, L, D), computed one behind the other in as few rows as possible.

    Positions begin anew with each sample, where :mod:`cell2sen.engine.network.attention` ends the view of the ones
    before: what comes out is what each sample alone gives. Padding gives zeros.
    """
    lengths = real_BL.sum(dim=1).tolist()
    rows = rows_of(lengths)
    # Where each token of the packed rows comes from, as a place in the flattened batch; -1 for none.
    source = torch.full((len(rows), max(lengths)), -1, dtype=torch.long)
    position = torch.zeros_like(source)
    places = torch.arange(real_BL.numel()).reshape(real_BL.shape)
    for line, samples_of_row in enumerate(rows):
        at = 0
        for sample in samples_of_row:
            there = slice(at, at + lengths[sample])
            source[line, there] = places[sample][real_BL[sample].cpu()]
            position[line, there] = torch.arange(lengths[sample])
            at += lengths[sample]
    source, position = source.to(ids_BL.device), position.to(ids_BL.device)
    packed_ids = ids_BL.flatten()[source.clamp(min=0)]
    hidden = base(input_ids=packed_ids, position_ids=position, use_cache=False).last_hidden_state
    filled = source >= 0
    flat = hidden.new_zeros((real_BL.numel(), hidden.shape[-1]))
    found: torch.Tensor = flat.index_copy(0, source[filled], hidden[filled]).reshape(*real_BL.shape, -1)
    return found


class Restoring:
    """A trainer that reads checkpoints under the names with which they were written.

    Some architectures are written with other names than their modules have (GPT-NeoX: ``embed_out`` for its head), and
    transformers' trainer passes over names that it does not find: the head would stay as it was.
    """

    model: Any
    state: Any

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        self._read_whole(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()  # type: ignore[misc]
        self._read_whole(self.state.best_model_checkpoint)

    def _read_whole(self, folder: str) -> None:
        if hasattr(self.model, "peft_config"):  # adapters are written as they are called
            return
        written = type(self.model).from_pretrained(folder, dtype=self.model.dtype, local_files_only=True)
        self.model.load_state_dict(written.state_dict())


class AnswerTrainer(Restoring, SFTTrainer):
    """Mean over samples of (mean loss of the answer's tokens + `prompt_loss` × mean loss of the prompt's tokens).

    trl averages over tokens, so that a label of three tokens counts nothing beside a cell sentence of two hundred.
    Hidden states are computed once and the LM head runs only where a loss is taken; `loss_tokens` limits that to so
    many tokens of each prompt and each answer, drawn at random at every visit (an unbiased estimate of the mean,
    several times cheaper for a large vocabulary). With `packing` samples share rows, see :func:`packed_hidden`.
    """

    def __init__(
        self, *args: Any, prompt_loss: float = 0.0, loss_tokens: int | None = None, packing: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.accelerator.num_processes > 1:
            raise NotImplementedError("training runs in one process; start it without torchrun or accelerate launch")
        self.prompt_loss = prompt_loss
        self.loss_tokens = loss_tokens
        self.packing = packing
        # The loss is a mean already: the trainer has to divide it by the accumulation steps.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one batch; `labels` are :data:`IGNORED` outside the answers."""
        causal = self.accelerator.unwrap_model(model)
        causal = causal.get_base_model() if hasattr(causal, "get_base_model") else causal
        ids_BL, mask_BL, labels_BL = inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
        # Behind right padding nothing attends to the padding, so the mask can go, and the fast causal kernel is used.
        mask = mask_BL if not bool(mask_BL[:, 0].all()) else None
        next_BL = ids_BL[:, 1:]
        real_BL = mask_BL[:, 1:].bool() & mask_BL[:, :-1].bool()
        answer_BL = (labels_BL[:, 1:] != IGNORED) & real_BL
        limit = self.loss_tokens if model.training else None
        length_B = answer_BL.sum(dim=1)
        weight_B = torch.where(length_B <= LABEL_TOKENS, length_B, 1)
        # transformers switches to bfloat16 in the model's own forward, which is not what is called here.
        with self.accelerator.autocast():
            if self.packing:
                hidden_BLD = packed_hidden(causal.base_model, ids_BL, mask_BL.bool())[:, :-1]
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
        """Evaluation needs the loss only."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def _get_train_sampler(self, train_dataset: Any = None) -> GroupedOrder:
        # Of the whole data set: the one that is passed lacks the columns that the model does not read.
        dataset: Any = self.train_dataset
        batch_size = int(self.args.per_device_train_batch_size)
        # Packed, samples of any length go together, and need not be sorted.
        together = 1 if self.packing else _SORTED_TOGETHER
        return GroupedOrder(dataset["length"], batch_size, int(self.args.data_seed or 0), together)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Checkpoints carry no card; the finished model has one of its own."""


def draw_tokens(chosen_BL: torch.Tensor, limit: int | None) -> torch.Tensor:
    """At most `limit` of the chosen tokens of each row, drawn at random."""
    if limit is None:
        return chosen_BL
    noise_BL = torch.rand(chosen_BL.shape, device=chosen_BL.device).masked_fill(~chosen_BL, 2.0)
    return chosen_BL & (noise_BL.argsort(dim=1).argsort(dim=1) < limit)


def mean_of_samples(
    causal: Any, hidden_BLD: torch.Tensor, next_BL: torch.Tensor, chosen_BL: torch.Tensor,
    weight_B: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Mean over samples of the mean cross-entropy of their chosen tokens, in nats; rows without any do not count.

    With `weight_B` each sample's mean is multiplied by its weight; the mean over samples stays one over their number.
    """
    logits_NV = capped(causal, causal.get_output_embeddings()(hidden_BLD[chosen_BL]).float())
    loss_N = torch.nn.functional.cross_entropy(logits_NV, next_BL[chosen_BL], reduction="none")
    counts_B = chosen_BL.sum(dim=1)
    rows_N = torch.arange(len(chosen_BL), device=chosen_BL.device).repeat_interleave(counts_B)
    per_sample_B = torch.zeros(len(chosen_BL), device=loss_N.device).index_add(0, rows_N, loss_N)
    present_B = counts_B > 0
    means_B = per_sample_B[present_B] / counts_B[present_B]
    if weight_B is not None:
        means_B = means_B * weight_B[present_B]
    return means_B.sum() / max(1, int(present_B.sum()))


def capped(causal: Any, logits: torch.Tensor) -> torch.Tensor:
    """Logits behind the model's final soft-cap, if it has one."""
    cap = getattr(causal.config, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


class Progress(TrainerCallback):
    """A bar on stderr, and what is measured on held-out samples in the log; standard output stays the caller's."""

    def __init__(self, show: bool) -> None:
        self.show = show
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar."""
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="training", unit=" steps", disable=not self.show
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step further."""
        self.bar.update(state.global_step - self.bar.n if self.show else 0)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the loss."""
        if "loss" in (logs or {}):
            self.bar.set_postfix_str(f"loss {logs['loss']:.3f}")
        if "eval_loss" in (logs or {}):
            logger.info("step %d: loss on held-out samples %.4f", state.global_step, logs["eval_loss"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self.bar.close()
