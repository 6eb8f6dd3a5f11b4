"""Fine-tuning, reinforcement learning and training from scratch, through trl / peft."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cell2sen import model_directory, networks, tasks
from cell2sen.calibration import calibrate
from cell2sen.model import Model, resolve
from cell2sen.pairs import Augmentation, Cells, exclude_held_out, pairs
from cell2sen.questions import Question, questions
from cell2sen.rewards import gene_set
from cell2sen.task import Task
from cell2sen.tokens import Tokens
from cell2sen.training_file import Grpo, Lora, Scratch, TrainConfig, configure, from_mapping, plain, read_config
from cell2sen.wording import word

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Grpo", "Lora", "Scratch", "TrainConfig", "configure", "from_mapping", "read_config", "train"]

logger = logging.getLogger(__name__)

#: Genes per sentence, where neither the training file nor the model that is fine-tuned says another number.
LENGTHS = {"annotate": 400, "generate": 200, "perturb": 200}
DEFAULT_LENGTH = 200

SETTINGS_FILE = "settings.json"

NOTHING = "nothing to learn from: no training cell has the labels, or the controls, that its tasks need"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and advice of transformers, and the warnings that trl and peft earn with deprecated names."""
    from transformers.utils import logging

    hf_logging: Any = logging  # typed in parts only
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", "You are using 'rollout_func', which is an experimental", UserWarning)
            yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


@_quiet()
def train(
    config: TrainConfig, out: str | Path, *, base: str | Path = ".", resume: bool = False, progress: bool = True
) -> Model:
    """Train, and write a directory that :func:`cell2sen.model.resolve` takes like any other model.

    Parameters
    ----------
    out
        Directory to be written. It appears under this name only when it is complete; checkpoints of a running training
        lie in ``<out>.training``.
    base
        Folder that the files in `config.data` are relative to.
    resume
        Go on from the last checkpoint in ``<out>.training``: the result is that of an uninterrupted training.
    progress
        Show a progress bar on stderr.

    Returns
    -------
    Model
        The trained model.

    Raises
    ------
    FileExistsError
        `out` exists, or an unfinished training that is not to be resumed.
    FileNotFoundError
        Nothing to resume.
    ValueError
        Data that cannot be learned from, or resumed with other settings.
    """
    import torch
    from transformers import set_seed

    out = Path(out)
    folder = out.with_name(out.name + ".training")
    _check_folders(config, out, folder, resume)
    set_seed(config.seed)
    start = resolve(config.model) if config.model else None
    case = start.recipe.case if start else "upper"
    cells = {data.file: Cells(data, Path(base), case) for data in config.data}
    exclude_held_out(cells)
    worded = _worded(config, start)
    lengths = {name: LENGTHS.get(name, DEFAULT_LENGTH) for name in worded}
    lengths |= {**(start.metadata.get("lengths", {}) if start else {}), **config.lengths}
    genes = start.genes if start else networks.common_genes(cells, config)
    if start:
        network, tokenizer, tokens = networks.load(config, start)
    else:
        network, tokenizer, tokens = networks.from_scratch(config, genes, cells, worded)
    for one in cells.values():
        listed = frozenset(genes) if genes else None
        known = tokens.known(one.symbols)
        one.keep_genes(known & np.array([listed is None or symbol in listed for symbol in one.symbols], dtype=bool))
    learner = Learner(
        config=config, start=start, cells=cells, worded=worded, lengths=lengths, network=network, tokenizer=tokenizer,
        tokens=tokens, folder=folder, base=Path(base), progress=progress,
    )  # fmt: skip
    trainer, texts = learner.reinforced() if config.grpo else learner.supervised()
    _silence(trainer)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS_FILE).write_text(json.dumps(plain(config)), encoding="utf-8")
    trainer.train(resume_from_checkpoint=resume)
    trained: Any = trainer.model
    trained.config.use_cache = True
    metadata = model_directory.metadata_of(config, cells, worded, lengths, genes, start)
    network = networks.whole(trainer, config, start, folder).to(getattr(torch, config.save_dtype))
    with model_directory.complete(out) as temporary:
        model_directory.write(temporary, network, tokenizer, metadata, config, cells, trainer.state)
        model_directory.check_tokenizer(temporary, tokens, texts)
        calibrate(temporary, list(cells.values()), progress=progress)
    shutil.rmtree(folder, ignore_errors=True)
    return resolve(out)


def _check_folders(config: TrainConfig, out: Path, folder: Path, resume: bool) -> None:
    if out.exists():
        raise FileExistsError(f"{out} exists already; choose another directory or remove it")
    checkpoints = any(folder.glob("checkpoint-*"))
    if checkpoints and not resume:
        raise FileExistsError(f"{folder} holds an unfinished training: resume it, or remove it to begin anew")
    if resume and not checkpoints:
        raise FileNotFoundError(f"there is no checkpoint in {folder} to resume from; begin anew without resume")
    settings = plain(config)
    if resume and (stored := json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))) != settings:
        changed = sorted(key for key in settings if settings[key] != stored.get(key))
        raise ValueError(
            f"the training in {folder} began with other settings ({', '.join(changed)}); resume it with those"
        )
    out.parent.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True, kw_only=True, eq=False)
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
    progress: bool

    def supervised(self) -> tuple[Any, list[str]]:
        """The trainer that learns from pairs, and some texts as it reads them."""
        from trl.trainer.sft_config import SFTConfig

        from cell2sen.sft import AnswerTrainer, Progress

        config = self.config
        train_set, eval_set = (self._samples(held_out=held_out) for held_out in (False, True))
        logger.info("%d training pairs, %d held-out pairs", len(train_set), len(eval_set))
        if not len(train_set):
            raise ValueError(NOTHING)
        arguments = SFTConfig(
            **self._arguments(bool(len(eval_set))), num_train_epochs=config.epochs, max_steps=config.max_steps,
            per_device_train_batch_size=config.batch_size, gradient_accumulation_steps=config.gradient_accumulation,
            adam_beta2=0.98, max_length=None, metric_for_best_model="eval_loss", greater_is_better=False,
            bf16=config.bf16,
        )  # fmt: skip
        trainer = AnswerTrainer(
            model=self.network, args=arguments, train_dataset=train_set,
            eval_dataset=eval_set if len(eval_set) else None, processing_class=self.tokenizer,
            peft_config=networks.adapters(config), prompt_loss=config.prompt_loss, loss_tokens=config.loss_tokens,
            callbacks=[Progress(self.progress), *self._stopping()],
        )  # fmt: skip
        few = train_set.select(range(min(8, len(train_set))))
        return trainer, [a + b for a, b in zip(few["prompt"], few["completion"], strict=True)]

    def reinforced(self) -> tuple[Any, list[str]]:
        """The trainer that learns from rewards, and some texts as it reads them."""
        import torch
        from trl.trainer.grpo_config import GRPOConfig

        from cell2sen.grpo import GuidedTrainer, Progress

        config, grpo = self.config, self.config.grpo
        assert grpo is not None
        assert self.start is not None
        train_set, eval_set = (self._questions(held_out=held_out) for held_out in (False, True))
        logger.info("%d training questions, %d held-out questions", len(train_set), len(eval_set))
        if len(train_set) < grpo.prompts:
            raise ValueError(f"{NOTHING} (found {len(train_set)} questions, a step has {grpo.prompts})")
        answers = grpo.prompts * grpo.answers
        at_once = min(config.batch_size, answers)
        if answers % at_once:
            raise ValueError(
                f"batch_size must divide the {answers} answers of a step (grpo.prompts × grpo.answers), found {at_once}"
            )
        arguments = GRPOConfig(
            **self._arguments(bool(eval_set)), num_train_epochs=1, metric_for_best_model="eval_reward",
            greater_is_better=True, per_device_train_batch_size=at_once,
            gradient_accumulation_steps=answers // at_once, steps_per_generation=answers // at_once,
            eval_on_start=bool(eval_set), num_generations=grpo.answers, num_generations_eval=1, num_iterations=grpo.iterations,
            temperature=grpo.temperature, beta=grpo.beta, epsilon=grpo.clip, shuffle_dataset=False,
            disable_dropout=True, bf16=config.bf16 and torch.cuda.is_available(),
            model_init_kwargs=networks.where(self.start) if grpo.beta else None,
        )  # fmt: skip
        trainer = GuidedTrainer(
            self.network, args=arguments, tokens=self.tokens, described=self.start, train_questions=train_set,
            eval_questions=eval_set, vocabularies={file: one.symbols for file, one in self.cells.items()},
            weights=grpo.rewards, genes=self._gene_set(), guided=grpo.guided, max_new_tokens=grpo.max_new_tokens,
            embed=self._embed() if "embedding" in grpo.rewards else None, processing_class=self.tokenizer,
            peft_config=networks.adapters(config), callbacks=[Progress(self.progress), *self._stopping()],
        )  # fmt: skip
        return trainer, [one.prompt.text for one in train_set[:8]]

    def _arguments(self, evaluate: bool) -> dict[str, Any]:
        """What both trainers are told."""
        import torch

        config = self.config
        best = config.keep_best or config.patience is not None
        if best and not evaluate:
            raise ValueError(
                "keep_best and patience need held-out pairs: no cell is held out (split:), or none has an answer"
            )
        return {
            "output_dir": str(self.folder), "per_device_eval_batch_size": config.batch_size,
            "learning_rate": self._learning_rate(), "weight_decay": config.weight_decay,
            "lr_scheduler_type": "cosine", "warmup_steps": config.warmup, "max_grad_norm": 1.0,
            "gradient_checkpointing": config.gradient_checkpointing,
            "eval_strategy": "steps" if evaluate else "no", "eval_steps": config.eval_steps,
            "save_steps": config.eval_steps, "save_total_limit": 2, "load_best_model_at_end": best,
            "logging_steps": 10, "report_to": "none", "seed": config.seed, "data_seed": config.seed,
            "dataloader_num_workers": 0, "disable_tqdm": True, "use_cpu": not torch.cuda.is_available(),
        }  # fmt: skip

    def _learning_rate(self) -> float:
        config = self.config
        if config.learning_rate is not None:
            return config.learning_rate
        small = self.network.num_parameters() < 50e6
        if config.grpo:
            return 1e-4 if small else 1e-5 if config.lora else 1e-6
        return 1e-3 if config.from_scratch else 2e-4 if config.lora else 3e-4 if small else 1e-5

    def _stopping(self) -> list[Any]:
        from transformers import EarlyStoppingCallback

        patience = self.config.patience
        return [] if patience is None else [EarlyStoppingCallback(early_stopping_patience=patience)]

    def _samples(self, *, held_out: bool) -> Dataset:
        """All draws of all cells of one side of the split, of the held-out side at most `config.eval_pairs`."""
        from cell2sen.sft import samples

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
            listed += gene_set(self.base / str(grpo.gene_sets), name)
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
        from cell2sen import pipeline

        backend = pipeline.load_model({"model": self.start, "progress": False})  # type: ignore[typeddict-item]
        task = word(tasks.load("embed"), backend.model)
        return lambda lists: backend.embed([task.prompt(genes=genes) for genes in lists]).vectors


def _silence(trainer: Any) -> None:
    """Standard output belongs to the caller's results."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def _worded(config: TrainConfig, start: Model | None) -> dict[str, Task]:
    names = sorted({name for data in config.data for name in data.tasks})
    return {name: word(tasks.load(name), start) if start else tasks.load(name) for name in names}
