"""The trainers of a training: data drawn for them, settings, stages, where they stand."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cell2sen import tasks
from cell2sen.engine.network.cpu import has_bfloat16
from cell2sen.engine.tokenization.tokenizer import Tokens
from cell2sen.inference.templates import choose_templates
from cell2sen.model import Model
from cell2sen.task import Task
from cell2sen.training import network as networks
from cell2sen.training.cells import Augmentation, Cells
from cell2sen.training.config import TrainConfig, plain
from cell2sen.training.examples import pairs
from cell2sen.training.questions import Question, questions
from cell2sen.training.rewards import gene_set

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

SETTINGS_FILE = "settings.json"

#: What the first stage of extending a tokenizer has learned.
FIRST_STAGE_FILE = "first_stage.safetensors"

NOTHING = "nothing to learn from: no training cell has the labels, or the controls, that its tasks need"


@dataclass(kw_only=True, eq=False)
class Learner:
    """Data, network and settings of one training, and the trainer that they make."""

    config: TrainConfig
    start: Model | None
    cells: Mapping[str, Cells]
    worded: Mapping[str, Task]
    lengths: Mapping[str, int]
    network: Any
    tokenizer: Any
    tokens: Tokens
    folder: Path
    base: Path
    resume: bool
    progress: bool

    def start_or_resume(self, trainer: Any, folder: Path) -> None:
        """Train, from the last checkpoint in the folder if that is wanted and there is one."""
        _silence(trainer)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / SETTINGS_FILE).write_text(json.dumps(plain(self.config)), encoding="utf-8")
        trainer.train(resume_from_checkpoint=self.resume and any(folder.glob("checkpoint-*")))

    def first_stage(self) -> list[dict[str, Any]]:
        """Train the vectors of new tokens alone; returns the log."""
        from safetensors.torch import load_file, save_file

        assert self.config.gene_tokens is not None
        rows, log = self.folder / FIRST_STAGE_FILE, self.folder / "first_stage.json"
        if self.resume and rows.exists():
            networks.set_rows(self.network, load_file(rows))
            logged: list[dict[str, Any]] = json.loads(log.read_text(encoding="utf-8"))
            return logged
        new = getattr(self.network, "new_tokens", None)
        share = self.config.gene_tokens.first
        if not new or not share:
            return []
        steps, epochs = self.config.max_steps, self.config.epochs * share
        if share >= 1 or steps > 0:
            steps = int(share) if share >= 1 else max(1, round(steps * share))
        folder = self.folder / "first"
        config = dataclasses.replace(
            self.config, max_steps=steps, epochs=epochs, learning_rate=self.config.gene_tokens.first_learning_rate,
            weight_decay=0.0, keep_best=False, patience=None,
        )  # fmt: skip
        trainer = self._supervised(config, folder, networks.first_stage(self.network))
        logger.info("first stage: the vectors of %d new tokens alone", len(new))
        self.start_or_resume(trainer, folder)
        trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
        for parameter in self.network.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        history = [{**entry, "stage": "new tokens"} for entry in trainer.state.log_history]
        log.write_text(json.dumps(history), encoding="utf-8")
        temporary = rows.with_suffix(".tmp")
        save_file(networks.rows_of(self.network), temporary)
        temporary.replace(rows)
        return history

    @functools.cached_property
    def sets(self) -> tuple[Dataset, Dataset]:
        """Training pairs and held-out pairs, as the model reads them."""
        train_set, eval_set = (self._samples(held_out=held_out) for held_out in (False, True))
        logger.info("%d training pairs, %d held-out pairs", len(train_set), len(eval_set))
        if not len(train_set):
            raise ValueError(NOTHING)
        return train_set, eval_set

    def supervised(self) -> tuple[Any, list[str]]:
        """The trainer that learns from pairs, and some texts as it reads them."""
        trainer = self._supervised(self.config, self.folder, networks.adapters(self.config, self.network))
        few = self.sets[0].select(range(min(8, len(self.sets[0]))))
        return trainer, [a + b for a, b in zip(few["prompt"], few["completion"], strict=True)]

    def _supervised(self, config: TrainConfig, folder: Path, adapters: Any) -> Any:
        from trl.trainer.sft_config import SFTConfig

        from cell2sen.training.trainers.sft import AnswerTrainer, Progress

        train_set, eval_set = self.sets
        arguments = SFTConfig(
            **self._arguments(config, folder, bool(len(eval_set))), num_train_epochs=config.epochs,
            max_steps=config.max_steps, per_device_train_batch_size=self._batch_size(config),
            gradient_accumulation_steps=config.gradient_accumulation, adam_beta2=0.98, max_length=None,
            metric_for_best_model="eval_loss", greater_is_better=False, bf16=_bfloat16(config),
        )  # fmt: skip
        network = networks.with_adapters(self.network, adapters)
        with networks.head_hidden(network):
            return AnswerTrainer(
                model=network, args=arguments, train_dataset=train_set,
                eval_dataset=eval_set if len(eval_set) else None, processing_class=self.tokenizer,
                prompt_loss=config.prompt_loss, loss_tokens=config.loss_tokens, packing=config.packing,
                callbacks=[Progress(self.progress), *_stopping(config)],
            )  # fmt: skip

    def reinforced(self) -> tuple[Any, list[str]]:
        """The trainer that learns from rewards, and some texts as it reads them."""
        from trl.trainer.grpo_config import GRPOConfig

        from cell2sen.training.trainers.grpo import GuidedTrainer, Progress

        config, grpo = self.config, self.config.grpo
        assert grpo is not None
        assert self.start is not None
        train_set, eval_set = (self._questions(held_out=held_out) for held_out in (False, True))
        logger.info("%d training questions, %d held-out questions", len(train_set), len(eval_set))
        if len(train_set) < grpo.prompts:
            raise ValueError(f"{NOTHING} (found {len(train_set)} questions, a step has {grpo.prompts})")
        answers = grpo.prompts * grpo.answers
        at_once = min(self._batch_size(config), answers)
        if answers % at_once:
            raise ValueError(
                f"batch_size must divide the {answers} answers of a step (grpo.prompts × grpo.answers), found {at_once}"
            )
        arguments = GRPOConfig(
            **self._arguments(config, self.folder, bool(eval_set)), num_train_epochs=1,
            metric_for_best_model="eval_reward", greater_is_better=True, per_device_train_batch_size=at_once,
            gradient_accumulation_steps=answers // at_once, steps_per_generation=answers // at_once,
            eval_on_start=bool(eval_set) and not self.resume, num_generations=grpo.answers, num_generations_eval=1,
            num_iterations=grpo.iterations,
            temperature=grpo.temperature, beta=grpo.beta, epsilon=grpo.clip, shuffle_dataset=False,
            disable_dropout=True, bf16=_bfloat16(config),
            model_init_kwargs=networks.where(self.start) if grpo.beta else None,
        )  # fmt: skip
        trainer = GuidedTrainer(
            self.network, args=arguments, tokens=self.tokens, described=self.start, train_questions=train_set,
            eval_questions=eval_set, vocabularies={file: one.symbols for file, one in self.cells.items()},
            weights=grpo.rewards, genes=self._gene_set(), guided=grpo.guided, max_new_tokens=grpo.max_new_tokens,
            embed=self._embed() if "embedding" in grpo.rewards else None, processing_class=self.tokenizer,
            peft_config=networks.adapters(config, self.network),
            callbacks=[Progress(self.progress), *_stopping(config)],
        )  # fmt: skip
        return trainer, [one.prompt.text for one in train_set[:8]]

    def _arguments(self, config: TrainConfig, folder: Path, evaluate: bool) -> dict[str, Any]:
        """What both trainers are told."""
        import torch

        best = config.keep_best or config.patience is not None
        if best and not evaluate:
            raise ValueError(
                "keep_best and patience need held-out pairs: no cell is held out (split:), or none has an answer"
            )
        return {
            "output_dir": str(folder), "per_device_eval_batch_size": self._batch_size(config),
            "learning_rate": self._learning_rate(config), "weight_decay": config.weight_decay,
            "lr_scheduler_type": "cosine", "warmup_steps": config.warmup, "max_grad_norm": 1.0,
            "gradient_checkpointing": config.gradient_checkpointing,
            "eval_strategy": "steps" if evaluate else "no", "eval_steps": config.eval_steps,
            "save_steps": config.eval_steps, "save_total_limit": 2, "load_best_model_at_end": best,
            "logging_steps": 10, "report_to": "none", "seed": config.seed, "data_seed": config.seed,
            "dataloader_num_workers": 0, "disable_tqdm": True, "use_cpu": not torch.cuda.is_available(),
        }  # fmt: skip

    def _batch_size(self, config: TrainConfig) -> int:
        return config.batch_size or (8 if networks.is_small(self.network) and not config.grpo else 32)

    def _learning_rate(self, config: TrainConfig) -> float:
        if config.learning_rate is not None:
            return config.learning_rate
        small = networks.is_small(self.network)
        if config.grpo:
            return 1e-4 if small else 1e-5 if config.lora else 1e-6
        return 1e-3 if config.from_scratch else 2e-4 if config.lora else 1.5e-3 if small else 1e-5

    def _samples(self, *, held_out: bool) -> Dataset:
        """All draws of all cells of one side of the split, of the held-out side at most `config.eval_pairs`."""
        from cell2sen.training.trainers.sft import samples

        rows = self._drawn(pairs, held_out)
        if held_out:
            # The same number of every task, so that the loss that is watched is not that of the commonest task alone.
            generator = np.random.default_rng(self.config.seed)
            order = [rows[place] for place in generator.permutation(len(rows))]
            each = self.config.eval_pairs // max(1, len({row[0] for row in rows}))
            rows = [row for name in self.worded for row in [row for row in order if row[0] == name][:each]]
        return samples(rows, self.tokens, int(self.network.config.get_text_config().max_position_embeddings))

    def _questions(self, *, held_out: bool) -> list[Question]:
        """Questions in the order in which they are asked."""
        config, grpo = self.config, self.config.grpo
        assert grpo is not None
        rows = self._drawn(functools.partial(questions, truth=grpo.truth), held_out)
        generator = np.random.default_rng(config.seed)
        if held_out or not rows:
            return [rows[place] for place in generator.permutation(len(rows))[: grpo.held_out]]
        wanted = config.max_steps * grpo.prompts if config.max_steps > 0 else round(config.epochs * len(rows))
        passes = [generator.permutation(len(rows)) for _ in range(-(-wanted // len(rows)))]
        order = np.concatenate(passes)[: wanted - wanted % grpo.prompts]
        return [rows[place] for place in order]

    def _drawn(self, draws: Callable[..., Iterator[Any]], held_out: bool) -> list[Any]:
        """What `draws` makes of all cells of one side of the split, in as many draws as the data says."""
        rows: list[Any] = []
        for number, one in enumerate(self.cells.values()):
            for draw in range(1 if held_out else one.n_draws):
                rows += draws(
                    one, self.worded, draw=draw, held_out=held_out, lengths=self.lengths,
                    seed=self.config.seed + 7919 * number,
                    augmentation=Augmentation() if held_out else self.config.augmentation,
                )  # fmt: skip
        return rows

    def _gene_set(self) -> tuple[str, ...]:
        """Genes that rewards look at, as the model writes them."""
        grpo = self.config.grpo
        assert grpo is not None
        listed = [*grpo.genes]
        for name in grpo.gene_set:
            file = self.base / str(grpo.gene_sets)
            listed += gene_set(file if file.exists() else Path(str(grpo.gene_sets)), name)
        known = {symbol for one in self.cells.values() for symbol in one.symbols}
        found = tuple(dict.fromkeys(gene for gene in listed if gene in known))
        if listed:
            logger.info("%d of the %d genes that rewards look at are in the data", len(found), len(set(listed)))
        if listed and len(found) < 2:
            raise ValueError(
                f"the data and the model have {len(found)} of the genes that rewards look at: {listed[:5]}"
            )
        return found

    def _embed(self) -> Callable[[Sequence[Sequence[str]]], Any]:
        """Sentences → vectors of the model as it was before this training."""
        from cell2sen.inference.session import load_model

        backend = load_model({"model": self.start, "progress": False})  # type: ignore[typeddict-item]
        task = choose_templates(tasks.load("embed"), backend.model)
        return lambda lists: backend.embed([task.prompt(genes=genes) for genes in lists]).vectors


def _bfloat16(config: TrainConfig) -> bool:
    import torch

    if config.bf16 is not None:
        return config.bf16
    return bool(torch.cuda.is_bf16_supported()) if torch.cuda.is_available() else has_bfloat16()


def _stopping(config: TrainConfig) -> list[Any]:
    from transformers import EarlyStoppingCallback

    return [] if config.patience is None else [EarlyStoppingCallback(early_stopping_patience=config.patience)]


def _silence(trainer: Any) -> None:
    """Standard output belongs to the caller's results."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
