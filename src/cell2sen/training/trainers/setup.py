"""trl trainers from a training configuration: settings, stages, checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cell2sen import tasks
from cell2sen.backend import Sampling
from cell2sen.data.genes.gene_sets import gene_set
from cell2sen.engine.network.cpu import has_bfloat16
from cell2sen.inference.templates import choose_templates
from cell2sen.training.config.grpo import Grpo, RewardGenes
from cell2sen.training.config.settings import TrainConfig
from cell2sen.training.config.training_file import plain
from cell2sen.training.corpus.reading import Corpus
from cell2sen.training.examples.pairs import Examples
from cell2sen.training.network import loading as networks
from cell2sen.training.network.loading import TrainableModel
from cell2sen.training.processes import blank_copy, gathered, is_main, is_sharded, share_of_batch

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

#: File with the configuration, in the folder of the checkpoints.
SETTINGS_FILE = "settings.json"

#: Files with the vectors of new tokens after the first stage, and with the log of this stage.
NEW_TOKENS_FILE, NEW_TOKENS_LOG = "new_tokens.safetensors", "new_tokens.json"

#: Error without training examples.
NO_EXAMPLES = "nothing to learn from: no training cell has the labels, or the controls, that its tasks need"


@dataclass(kw_only=True, eq=False)
class TrainingRun:
    """Data, model and settings of one training run, and its trainers."""

    config: TrainConfig
    examples: Examples
    model: TrainableModel
    folder: Path
    """Folder of the checkpoints."""

    base: Path
    """Folder that files in the configuration are relative to."""

    resume: bool
    progress: bool
    corpus: Corpus | None = None
    """Corpus that the pairs are read from, instead of the examples."""

    def fit(self, trainer: Any, folder: Path) -> None:
        """Run a trainer; a resumed run continues from the last checkpoint in `folder`, if any.

        If that is of the last step, its weights are loaded: transformers' trainer would go one step further.
        """
        from transformers import PrinterCallback

        trainer.remove_callback(PrinterCallback)  # it writes to standard output
        self.folder.mkdir(parents=True, exist_ok=True)
        if is_main():
            (self.folder / SETTINGS_FILE).write_text(json.dumps(plain(self.config)), encoding="utf-8")
        blank = blank_copy(trainer.model) if is_sharded(trainer.accelerator) else None
        if not (self.resume and trainer.restore_finished(folder)):
            trainer.train(resume_from_checkpoint=self.resume and any(folder.glob("checkpoint-*")))
        if blank is not None:
            trainer.model = gathered(trainer.model, blank)

    def train_new_tokens(self) -> list[dict[str, Any]]:
        """Run the first stage, which trains the vectors of new tokens alone, and return its log.

        A resumed run reads the vectors and the log of a finished first stage.
        """
        from safetensors.torch import load_file, save_file

        rows, log = self.folder / NEW_TOKENS_FILE, self.folder / NEW_TOKENS_LOG
        if self.resume and rows.exists():
            networks.set_new_rows(self.model, load_file(rows))
            logged: list[dict[str, Any]] = json.loads(log.read_text(encoding="utf-8"))
            return logged
        config = self._new_tokens_settings()
        if config is None:
            return []
        folder = self.folder / "first"
        trainer = self._sft_trainer(config, folder, networks.new_tokens_config(self.model))
        logger.info("first stage: the vectors of %d new tokens alone", len(self.model.new_tokens))
        self.fit(trainer, folder)
        trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
        for parameter in self.model.network.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        history = [{**entry, "stage": "new tokens"} for entry in trainer.state.log_history]
        if not is_main():
            return history
        log.write_text(json.dumps(history), encoding="utf-8")
        temporary = rows.with_suffix(".tmp")
        save_file(networks.new_rows(self.model), temporary)
        temporary.replace(rows)
        return history

    def _new_tokens_settings(self) -> TrainConfig | None:
        """Settings of the first stage; ``None`` without one."""
        stage = self.config.model.gene_tokens
        assert stage is not None
        share, optimiser = stage.first, self.config.optimiser
        if not self.model.new_tokens or not share:
            return None
        steps, epochs = optimiser.max_steps, optimiser.epochs * share
        if share >= 1 or steps > 0:
            steps = int(share) if share >= 1 else max(1, round(steps * share))
        return dataclasses.replace(
            self.config,
            optimiser=dataclasses.replace(
                optimiser, max_steps=steps, epochs=epochs, learning_rate=stage.first_learning_rate, weight_decay=0.0
            ),
            checkpoints=dataclasses.replace(self.config.checkpoints, keep_best=False, patience=None),
        )

    @functools.cached_property
    def sets(self) -> tuple[Dataset, Dataset]:
        """Tokenised training pairs and held-out pairs."""
        from cell2sen.training.trainers.corpus_samples import corpus_samples
        from cell2sen.training.trainers.token_batches import samples

        context = int(self.model.network.config.get_text_config().max_position_embeddings)
        if self.corpus is not None:
            train_set, eval_set = (
                corpus_samples(
                    self.corpus,
                    side,
                    self.model.tokens,
                    context,
                    self.folder / "corpus",
                    limit=limit,
                    resume=self.resume,
                    progress=self.progress,
                )
                for side, limit in (("train", None), ("held_out", self.config.checkpoints.eval_pairs))
            )
            logger.info("%d training pairs, %d held-out pairs", len(train_set), len(eval_set))
            return train_set, eval_set
        train_set, eval_set = (
            samples(self.examples.pairs(self.config, held_out=held_out), self.model.tokens, context)
            for held_out in (False, True)
        )
        logger.info("%d training pairs, %d held-out pairs", len(train_set), len(eval_set))
        if not len(train_set):
            raise ValueError(NO_EXAMPLES)
        return train_set, eval_set

    def sft_trainer(self) -> tuple[Any, list[str]]:
        """Trainer on pairs, and up to 8 of its texts."""
        trainer = self._sft_trainer(self.config, self.folder, networks.lora_config(self.config.model, self.model))
        if self.corpus is not None:
            return trainer, self.corpus.texts(8)
        first = self.sets[0].select(range(min(8, len(self.sets[0]))))
        return trainer, [prompt + answer for prompt, answer in zip(first["prompt"], first["completion"], strict=True)]

    def _sft_trainer(self, config: TrainConfig, folder: Path, peft_config: Any) -> Any:
        from trl.trainer.sft_config import SFTConfig

        from cell2sen.training.trainers.progress import Progress
        from cell2sen.training.trainers.sft import AnswerTrainer

        train_set, eval_set = self.sets
        arguments = SFTConfig(
            **self._arguments(config, folder, bool(len(eval_set))),
            num_train_epochs=config.optimiser.epochs,
            max_steps=config.optimiser.max_steps,
            per_device_train_batch_size=share_of_batch(self._batch_size(config)),
            gradient_accumulation_steps=config.compute.gradient_accumulation,
            adam_beta2=0.98,
            max_length=None,
            metric_for_best_model="eval_loss",
            greater_is_better=False,
            bf16=_bfloat16(config),
        )
        network = networks.with_adapters(self.model.network, peft_config)
        with networks.without_head(network):
            return AnswerTrainer(
                model=network,
                args=arguments,
                train_dataset=train_set,
                eval_dataset=eval_set if len(eval_set) else None,
                processing_class=self.model.tokenizer,
                prompt_loss=config.optimiser.prompt_loss,
                loss_tokens=config.optimiser.loss_tokens,
                packing=config.compute.packing,
                packed_tokens=config.compute.packed_tokens,
                callbacks=[Progress(self.progress and is_main()), *_stopping(config, arguments.load_best_model_at_end)],
            )

    def grpo_trainer(self) -> tuple[Any, list[str]]:
        """Trainer on rewards, and up to 8 of its prompts' texts."""
        from cell2sen.training.trainers.grpo import GuidedTrainer, RewardSum
        from cell2sen.training.trainers.progress import Progress

        config, grpo = self.config, self.config.grpo
        assert grpo is not None
        train_prompts, eval_prompts = (self.examples.prompts(config, held_out=held_out) for held_out in (False, True))
        logger.info("%d training prompts, %d held-out prompts", len(train_prompts), len(eval_prompts))
        if len(train_prompts) < grpo.answers.prompts:
            raise ValueError(f"{NO_EXAMPLES} (found {len(train_prompts)} prompts, a step has {grpo.answers.prompts})")
        arguments = self._grpo_arguments(grpo, bool(eval_prompts))
        trainer = GuidedTrainer(
            self.model,
            args=arguments,
            train_prompts=train_prompts,
            eval_prompts=eval_prompts,
            vocabularies={name: cells.symbols for name, cells in self.examples.cells.items()},
            reward=RewardSum(
                weights=grpo.rewards,
                genes=self._reward_genes(grpo.genes),
                embed=self._embed() if "embedding" in grpo.rewards else None,
            ),
            sampling=Sampling(
                temperature=grpo.answers.temperature, seed=config.seed, max_new_tokens=grpo.answers.max_new_tokens
            ),
            guided=grpo.answers.guided,
            peft_config=networks.lora_config(config.model, self.model),
            callbacks=[
                Progress(self.progress and is_main(), "reward"),
                *_stopping(config, arguments.load_best_model_at_end),
            ],
        )
        return trainer, [prompt.prompt.text for prompt in train_prompts[:8]]

    def _grpo_arguments(self, grpo: Grpo, evaluate: bool) -> Any:
        from trl.trainer.grpo_config import GRPOConfig

        answers = grpo.answers.prompts * grpo.answers.per_prompt
        batch_size = min(self._batch_size(self.config), answers)
        if answers % batch_size:
            raise ValueError(
                f"optimiser.batch_size must divide the {answers} answers of a step (prompts × per_prompt of "
                f"grpo.answers), found {batch_size}"
            )
        assert self.model.start is not None
        return GRPOConfig(
            **self._arguments(self.config, self.folder, evaluate),
            num_train_epochs=1,
            metric_for_best_model="eval_reward",
            greater_is_better=True,
            per_device_train_batch_size=share_of_batch(batch_size),
            gradient_accumulation_steps=answers // batch_size,
            steps_per_generation=answers // batch_size,
            eval_on_start=evaluate and not self.resume,
            num_generations=grpo.answers.per_prompt,
            num_generations_eval=1,
            num_iterations=grpo.iterations,
            temperature=grpo.answers.temperature,
            beta=grpo.beta,
            epsilon=grpo.clip,
            shuffle_dataset=False,
            disable_dropout=True,
            bf16=_bfloat16(self.config),
            model_init_kwargs=networks.load_options(self.model.start) if grpo.beta else None,
        )

    def _arguments(self, config: TrainConfig, folder: Path, evaluate: bool) -> dict[str, Any]:
        """Arguments of both trainers."""
        import torch

        if config.checkpoints.keep_best and not evaluate:
            raise ValueError(
                "keep_best needs held-out pairs, but no cell is held out, or none has an answer: name a share or "
                "groups under split:"
            )
        best = evaluate and (config.checkpoints.keep_best or config.checkpoints.patience is not None)
        return {
            "output_dir": str(folder),
            "per_device_eval_batch_size": self._batch_size(config),
            "learning_rate": self._learning_rate(config),
            "weight_decay": config.optimiser.weight_decay,
            "lr_scheduler_type": "cosine",
            "warmup_steps": config.optimiser.warmup,
            "max_grad_norm": 1.0,
            "gradient_checkpointing": config.compute.gradient_checkpointing,
            "eval_strategy": "steps" if evaluate else "no",
            "eval_steps": config.checkpoints.eval_steps,
            "save_steps": config.checkpoints.eval_steps,
            "save_total_limit": 2,
            "load_best_model_at_end": best,
            "logging_steps": 10,
            "report_to": "none",
            "seed": config.seed,
            "data_seed": config.seed,
            "dataloader_num_workers": 0,
            "disable_tqdm": True,
            "use_cpu": not torch.cuda.is_available(),
        }

    def _batch_size(self, config: TrainConfig) -> int:
        return config.optimiser.batch_size or (8 if networks.is_small(self.model.network) and not config.grpo else 32)

    def _learning_rate(self, config: TrainConfig) -> float:
        if config.optimiser.learning_rate is not None:
            return config.optimiser.learning_rate
        small = networks.is_small(self.model.network)
        if config.grpo:
            return 1e-4 if small else 1e-5 if config.model.lora else 1e-6
        return 1e-3 if config.model.from_scratch else 2e-4 if config.model.lora else 1.5e-3 if small else 1e-5

    def _reward_genes(self, genes: RewardGenes) -> tuple[str, ...]:
        """Genes that rewards compare, among those of the data that the model can write."""
        listed = [*genes.symbols]
        for name in genes.sets:
            file = self.base / str(genes.gmt)
            listed += gene_set(file if file.exists() else Path(str(genes.gmt)), name)
        known = {symbol for cells in self.examples.cells.values() for symbol in cells.symbols}
        common = tuple(dict.fromkeys(gene for gene in listed if gene in known))
        if listed:
            logger.info("%d of the %d genes that rewards compare are in the data", len(common), len(set(listed)))
        if listed and len(common) < 2:
            raise ValueError(
                f"rewards compare at least 2 genes, but the data and the model have {len(common)} of those listed "
                f"(such as {listed[:5]}); list others, or none to compare all genes"
            )
        return common

    def _embed(self) -> Callable[[Sequence[Sequence[str]]], Any]:
        """Function that embeds gene lists with the model before this training."""
        from cell2sen.inference.session import load_model

        backend = load_model({"model": self.model.start, "progress": False})  # type: ignore[typeddict-item]
        task = choose_templates(tasks.load("embed"), backend.model)
        return lambda lists: backend.embed([task.prompt(genes=genes) for genes in lists]).vectors


def _bfloat16(config: TrainConfig) -> bool:
    import torch

    if config.compute.bf16 is not None:
        return config.compute.bf16
    return bool(torch.cuda.is_bf16_supported()) if torch.cuda.is_available() else has_bfloat16()


def _stopping(config: TrainConfig, best: bool) -> list[Any]:
    from transformers import EarlyStoppingCallback

    patience = config.checkpoints.patience
    return [EarlyStoppingCallback(early_stopping_patience=patience)] if best and patience is not None else []
