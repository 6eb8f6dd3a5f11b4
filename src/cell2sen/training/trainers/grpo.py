"""Reinforcement learning: trl's GRPO on guided answers.

A guided answer is drawn from the model's distribution over the allowed tokens (of genes that are not yet written).
Therefore log-probabilities of the sampled, the trained and the reference model are all over the allowed tokens: over
all tokens the importance ratio would be wrong from the first step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from trl.trainer.grpo_trainer import GRPOTrainer

from cell2sen.answer import parse_sentence
from cell2sen.backend import Sampling
from cell2sen.training import rewards
from cell2sen.training.examples.references import ReferencedPrompt
from cell2sen.training.network.loading import TrainableModel, without_adapters
from cell2sen.training.processes import within_wrapper
from cell2sen.training.trainers.answer_log_probs import answer_log_probs, padded, prompt_key
from cell2sen.training.trainers.checkpoints import Restoring
from cell2sen.training.trainers.rollouts import Guidance, Rollout, RolloutBackend

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, kw_only=True, eq=False)
class RewardSum:
    """Weighted sum of rewards."""

    weights: Mapping[str, float]
    """Reward → weight."""

    genes: Sequence[str] = ()
    """Gene set to compare; all genes if empty."""

    embed: rewards.Embed | None = None
    """Embedding function of the reward `embedding`."""

    def functions(self) -> list[Any]:
        """Reward functions in the form that trl calls, one for each reward."""
        return [self._function(name) for name in self.weights]

    def _function(self, name: str) -> Any:
        def reward(written: Any, truth: Any, control: Any, n_words: Any, n_unknown: Any, **_: Any) -> list[float]:
            answers = [
                rewards.Answer(written=w, truth=t, control=c, genes=self.genes, n_words=n, n_unknown=u)
                for w, t, c, n, u in zip(written, truth, control, n_words, n_unknown, strict=True)
            ]
            values: list[float] = rewards.score([name], answers, self.embed)[:, 0].tolist()
            return values

        reward.__name__ = name
        return reward


class GuidedTrainer(Restoring, GRPOTrainer):
    """GRPO whose answers are drawn by a :class:`RolloutBackend`.

    Parameters
    ----------
    model
        Network that is trained, its tokenizer and its starting model.
    train_prompts, eval_prompts
        Prompts of the files in `vocabularies`.
    vocabularies
        File → genes that answers to its prompts may have.
    reward
        Sum of rewards.
    sampling
        How answers are drawn.
    guided
        Draw distinct genes, or else free text.
    """

    def __init__(
        self,
        model: TrainableModel,
        *,
        args: Any,
        train_prompts: Sequence[ReferencedPrompt],
        eval_prompts: Sequence[ReferencedPrompt],
        vocabularies: Mapping[str, Sequence[str]],
        reward: RewardSum,
        sampling: Sampling,
        guided: bool = True,
        **options: Any,
    ) -> None:
        assert model.start is not None
        self._guided = guided
        self._sampling = sampling
        self._of_text = {prompt.prompt.text: prompt for prompt in (*train_prompts, *eval_prompts)}
        self._vocabularies = {file: tuple(genes) for file, genes in vocabularies.items()}
        self._known = {file: frozenset(genes) for file, genes in vocabularies.items()}
        self._guidance: dict[bytes, Guidance] = {}
        args.reward_weights = [float(weight) for weight in reward.weights.values()]
        super().__init__(
            model=model.network,
            args=args,
            reward_funcs=reward.functions(),
            train_dataset=_dataset(train_prompts),
            eval_dataset=_dataset(eval_prompts) if eval_prompts else None,
            rollout_func=self._roll,
            processing_class=model.tokenizer,
            **options,
        )
        network = without_adapters(self.accelerator.unwrap_model(self.model))
        self._backend = RolloutBackend(model.start, network, model.tokens, progress=False)

    def _roll(self, texts: list[str], _: Any) -> dict[str, list[Any]]:
        """Rollout function for trl: prompts, each as often as it has answers → token ids and log-probabilities."""
        prompts = [self._of_text[text] for text in texts]
        rollouts = self._draw(prompts)
        for rollout in rollouts:
            if rollout.guidance is not None:
                self._guidance[prompt_key(rollout.prompt_ids)] = rollout.guidance
        parsed = [
            parse_sentence(rollout.text, self._known[prompt.file])
            for rollout, prompt in zip(rollouts, prompts, strict=True)
        ]
        return {
            "prompt_ids": [rollout.prompt_ids for rollout in rollouts],
            "completion_ids": [rollout.ids for rollout in rollouts],
            "logprobs": self._log_probs(rollouts),
            "written": [list(sentence.genes) for sentence in parsed],
            "n_words": [sentence.n_words for sentence in parsed],
            "n_unknown": [sentence.n_unknown for sentence in parsed],
        }

    def _draw(self, prompts: Sequence[ReferencedPrompt]) -> list[Rollout]:
        training = bool(self.model.training)
        step = f"step {self.state.global_step}" if training else "evaluation"
        # Draws depend on step, cell and row only: a resumed training draws the same answers, and several processes
        # draw those of one, each its consecutive rows.
        first = self.accelerator.process_index * len(prompts) if training else 0
        keyed = [
            dataclasses.replace(prompt.prompt, key=f"{prompt.prompt.key}/{step}/{row}")
            for row, prompt in enumerate(prompts, first)
        ]
        rollouts: dict[int, Rollout] = {}
        self._backend.network.eval()
        try:
            with self.accelerator.autocast():
                for file in dict.fromkeys(prompt.file for prompt in prompts):
                    rows = [row for row, prompt in enumerate(prompts) if prompt.file == file]
                    genes = self._vocabularies[file] if self._guided else None
                    drawn = self._backend.roll([keyed[row] for row in rows], self._sampling, genes)
                    rollouts.update(zip(rows, drawn, strict=True))
        finally:
            self._backend.network.train(training)
        return [rollouts[row] for row in range(len(prompts))]

    @torch.no_grad()
    def _log_probs(self, rollouts: Sequence[Rollout]) -> list[list[float]]:
        """Log-probabilities with which the tokens of the answers were drawn, nats."""
        values: list[list[float]] = []
        size = int(self.args.per_device_train_batch_size)
        for first in range(0, len(rollouts), size):
            part = rollouts[first : first + size]
            ids, mask, keep = padded([rollout.prompt_ids for rollout in part], [rollout.ids for rollout in part])
            device = self.accelerator.device
            rows, _, _ = self._get_per_token_logps_and_entropies(self.model, ids.to(device), mask.to(device), keep)
            values += [row[: len(rollout.ids)].tolist() for row, rollout in zip(rows, part, strict=True)]
        return values

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        # The answers were drawn with these log-probabilities: no second forward pass is needed.
        output["old_per_token_logps"] = output.pop("sampling_per_token_logps")
        return output

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Loss of a part of the answers."""
        parent: Any = super()  # typed in parts only
        compute = parent.compute_loss
        return within_wrapper(self.accelerator, model, lambda whole: compute(whole, inputs, return_outputs))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Batches of held-out prompts. Of several processes each takes all: shared, some would count twice."""
        if self.accelerator.num_processes == 1:
            return super().get_eval_dataloader(eval_dataset)
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        return torch.utils.data.DataLoader(
            dataset,
            batch_size=int(self.args.per_device_eval_batch_size),
            sampler=self._get_eval_sampler(dataset),
            collate_fn=self.data_collator,
        )

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """Log-probabilities of the answers' tokens among the allowed ones, (B, `logits_to_keep`)."""
        causal = without_adapters(self.accelerator.unwrap_model(model))
        size = batch_size or len(input_ids)
        parts = [
            answer_log_probs(
                causal,
                input_ids[first : first + size],
                attention_mask[first : first + size],
                logits_to_keep,
                self._guidance if self._guided else None,
                self.temperature,
                self.accelerator.autocast,
            )
            for first in range(0, len(input_ids), size)
        ]
        log_probs, entropies = (torch.cat(column) for column in zip(*parts, strict=True))
        return log_probs, entropies if compute_entropy else None, None


def _dataset(prompts: Sequence[ReferencedPrompt]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "prompt": [prompt.prompt.text for prompt in prompts],
            "truth": [list(prompt.truth) for prompt in prompts],
            "control": [list(prompt.control) for prompt in prompts],
        }
    )
