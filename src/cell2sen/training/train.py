"""Fine-tuning, reinforcement learning and training from scratch, through trl / peft."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cell2sen import tasks
from cell2sen.engine.network.cpu import keep_freed_memory
from cell2sen.inference.templates import choose_templates
from cell2sen.model import Model, resolve
from cell2sen.task import Task
from cell2sen.training import network as networks
from cell2sen.training.cells import Cells, exclude_held_out
from cell2sen.training.config import TrainConfig, plain
from cell2sen.training.release import directory as model_directory
from cell2sen.training.release import scorecard
from cell2sen.training.release.fit_calibration import calibrate
from cell2sen.training.release.fit_corrections import correct
from cell2sen.training.trainers.setup import FIRST_STAGE_FILE, SETTINGS_FILE, Learner

logger = logging.getLogger(__name__)

#: Genes per sentence, where neither the training file nor the model that is fine-tuned says another number.
LENGTHS = {"annotate": 400, "identify": 400, "generate": 200, "perturb": 200}
DEFAULT_LENGTH = 200


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
            warnings.filterwarnings("ignore", "Setting `save_embedding_layers` to `True`", UserWarning)
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

    keep_freed_memory()
    out = Path(out)
    folder = _folder(out)
    start = resolve(config.model) if config.model else None
    config = _inherited(config, start)
    _check_folders(config, out, folder, resume)
    set_seed(config.seed)
    case = start.recipe.case if start else "upper"
    cells = {data.file: Cells(data, Path(base), case) for data in config.data}
    exclude_held_out(cells)
    worded = _worded(config, start)
    lengths = {name: LENGTHS.get(name, DEFAULT_LENGTH) for name in worded}
    lengths |= {**(start.metadata.get("lengths", {}) if start else {}), **config.lengths}
    common = networks.common_genes(cells, config) if config.from_scratch or config.gene_tokens else ()
    genes: tuple[str, ...] | None = None  # any that the tokenizer can write
    if start:
        network, tokenizer, tokens = networks.load(config, start, common)
        genes = start.genes and tuple(dict.fromkeys((*start.genes, *common)))
    else:
        network, tokenizer, tokens = networks.from_scratch(config, common, cells, worded)
        if config.from_scratch and config.from_scratch.tokenizer == "genes":
            genes = common
    for one in cells.values():
        listed = frozenset(genes) if genes else None
        known = tokens.known(one.symbols)
        one.keep_genes(known & np.array([listed is None or symbol in listed for symbol in one.symbols], dtype=bool))
    networks.set_dropout(network, config)
    size = config.change_vectors
    if size is None:
        size = networks.CHANGE_VECTORS if start and _has_new_perturbations(cells, start) else 0
    if size:
        networks.add_changes(network, tokens, cells, lengths["perturb"], size, config.seed)
    before = networks.weights_of(network) if config.keep else {}
    learner = Learner(
        config=config, start=start, cells=cells, worded=worded, lengths=lengths, network=network, tokenizer=tokenizer,
        tokens=tokens, folder=folder, base=Path(base), resume=resume, progress=progress,
    )  # fmt: skip
    first_log = learner.first_stage() if config.gene_tokens else []
    set_seed(config.seed)
    trainer, texts = learner.reinforced() if config.grpo else learner.supervised()
    learner.start_or_resume(trainer, folder)
    trainer.state.log_history[:0] = first_log
    trained: Any = trainer.model
    trained.config.use_cache = True
    metadata = model_directory.metadata_of(config, cells, worded, lengths, genes, start)
    network = networks.whole(trainer, config, start, folder, common)
    networks.keep(network, before, config.keep)
    network = network.to(getattr(torch, config.save_dtype))
    with model_directory.complete(out) as temporary:
        model_directory.write(temporary, network, tokenizer, metadata, config, cells, trainer.state)
        if config.lora and not config.lora.merge:
            shutil.copytree(folder / "adapter", temporary / "adapter")
        model_directory.check_tokenizer(temporary, tokens, texts)
        calibrate(temporary, list(cells.values()), progress=progress)
        corrections = correct(temporary, list(cells.values()), seed=config.seed, progress=progress)
        if start and (lost := sorted(set(start.metadata.get("corrections", {})) - set(corrections))):
            logger.warning("%s corrects its responses to %d perturbations that were not trained on now (such as %s); "
                           "the new model does not", start.name, len(lost), lost[0])  # fmt: skip
        measured = scorecard.scores(temporary, list(cells.values()), config.score_cells, seed=config.seed)
        model_directory.write_card(temporary, config, trainer.state, measured, scorecard.as_markdown(measured))
    shutil.rmtree(folder, ignore_errors=True)
    return resolve(out)


def can_resume(out: str | Path) -> bool:
    """Whether an interrupted training has left a checkpoint."""
    return _checkpoints(_folder(Path(out)))


def _folder(out: Path) -> Path:
    return out.with_name(out.name + ".training")


def _checkpoints(folder: Path) -> bool:
    """Whether there is something to go on from, when what was interrupted while it was written is gone."""
    for checkpoint in folder.rglob("checkpoint-*"):
        if not (checkpoint / "trainer_state.json").is_file():  # written last
            shutil.rmtree(checkpoint)
    return any(folder.rglob("checkpoint-*")) or (folder / FIRST_STAGE_FILE).exists()


def _check_folders(config: TrainConfig, out: Path, folder: Path, resume: bool) -> None:
    if out.exists():
        raise FileExistsError(f"{out} exists already; choose another directory or remove it")
    checkpoints = _checkpoints(folder)
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


def _inherited(config: TrainConfig, start: Model | None) -> TrainConfig:
    """With the name that the model has for no perturbation, which it would forget without pairs that say it."""
    name = start.metadata.get("no_perturbation") if start else None
    if not name or config.grpo:  # rewards compare treated cells only
        return config
    inherit = [one.perturbation and not one.no_perturbation and "perturb" in one.tasks for one in config.data]
    data = (replace(one, no_perturbation=name) if new else one for one, new in zip(config.data, inherit, strict=True))
    return replace(config, data=tuple(data))


def _has_new_perturbations(cells: Mapping[str, Cells], start: Model) -> bool:
    """Whether a model of whole genes that can tell a change from a cell is to learn changes that it does not know."""
    if not start.metadata.get("no_perturbation") or not start.genes:
        return False
    known = start.metadata.get("perturbations", {})
    return any(
        name not in known
        for one in cells.values() if one.perturbation is not None and "perturb" in one.data.tasks
        for name in set(one.perturbation[~one.test]) - {None, one.data.control}
    )  # fmt: skip


def _worded(config: TrainConfig, start: Model | None) -> dict[str, Task]:
    names = sorted({name for data in config.data for name in data.tasks})
    return {name: choose_templates(tasks.load(name), start) if start else tasks.load(name) for name in names}
