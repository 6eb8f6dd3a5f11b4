"""One training run, from AnnData files to a model directory."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen import tasks
from cell2sen.data.output import complete_folder
from cell2sen.engine.network.cpu import keep_freed_memory
from cell2sen.inference.templates import choose_templates, templates_file
from cell2sen.model import METADATA_FILE, Model, resolve
from cell2sen.training.config.data import TrainingFile
from cell2sen.training.config.lengths import genes_per_sentence
from cell2sen.training.config.options import configure
from cell2sen.training.config.settings import TrainConfig
from cell2sen.training.config.training_file import flat, plain
from cell2sen.training.corpus.reading import Corpus
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.gene_sets import TrainingSets
from cell2sen.training.examples.names import check_names, exclude_held_out, unite_combinations
from cell2sen.training.examples.numbers import fit_bins
from cell2sen.training.examples.pairs import Examples
from cell2sen.training.network import loading as networks
from cell2sen.training.network.change_vectors import N_CHANGE_VECTORS, add_change_vectors
from cell2sen.training.network.from_scratch import common_genes, new_model
from cell2sen.training.network.loading import TrainableModel
from cell2sen.training.processes import is_main, refuse_sharded
from cell2sen.training.release import directory, model_card, scorecard
from cell2sen.training.release.attempts import Attempts
from cell2sen.training.release.fit_calibration import calibrate, log_only_answers
from cell2sen.training.release.fit_density import fit_density
from cell2sen.training.release.fit_gene_part import fit_gene_part
from cell2sen.training.release.fit_responses import fit_responses
from cell2sen.training.release.set_scores import set_scores
from cell2sen.training.trainers.setup import NEW_TOKENS_FILE, SETTINGS_FILE, TrainingRun

logger = logging.getLogger(__name__)


@networks.quiet()
def train(
    config: TrainConfig | str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    settings: Sequence[str] = (),
    **options: Any,
) -> Model:
    """Train a model and write its directory, which every ``model=`` and ``--model`` takes.

    Parameters
    ----------
    config
        Settings, see :func:`cell2sen.training.read_config` and :func:`cell2sen.training.from_mapping`; or a training
        file (``.yaml``), a file of cells or gene sets (``.gmt``), with `options`.
    out
        Directory to write. It appears when it is complete; checkpoints of an unfinished training are in
        ``<out>.training``. With torchrun or accelerate launch all processes train, and the first one writes.
    base
        Folder that the files in `config.data.files` are relative to. Default: the present one; that of a file of cells.
    resume
        Continue from the last checkpoint in ``<out>.training``. The result is that of an uninterrupted training. If
        calibration, responses, scores or card of a finished training failed, they are tried again.
    progress
        Show a progress bar on stderr.
    settings
        ``KEY=VALUE`` of any key of a training file, such as ``"optimiser.max_steps=100"``, for a file as `config`.
    **options
        For a file as `config`: the options of ``cell2sen train`` under their names in Python, such as
        ``cell_type="cell_type"``, ``label=["disease"]``, ``perturbation="condition"``, ``model="nano"``, ``epochs=5``
        (:func:`cell2sen.training.config.options.configure`).

    Returns
    -------
    Model
        The trained model; in all processes but the first one only its place.

    Raises
    ------
    FileExistsError
        `out` exists, or an unfinished training does and `resume` is false.
    FileNotFoundError
        There is no checkpoint to resume from, or no such file of cells.
    ValueError
        Nothing to learn from in the data, or a training to resume that began with other settings.
    TypeError
        An option that does not exist, or options beside a configuration.
    """
    from transformers import set_seed

    config, base = _configuration(config, base, options, settings)
    keep_freed_memory()
    out, base = Path(out), Path(base)
    folder = _folder(out)
    start = resolve(config.model.start) if config.model.start else None
    config = _with_inherited_names(config, start)
    _check_folders(config, out, folder, resume)
    _check_sharded(config, resume)
    set_seed(config.seed)
    corpus = Corpus.open(base / config.data.corpus) if config.data.corpus else None
    examples = _examples(config, start, base)
    model, genes = _initial_model(config, start, examples, corpus)
    before = networks.copied_weights(model.network) if config.model.start_share else {}
    run = TrainingRun(
        config=config,
        examples=examples,
        model=model,
        folder=folder,
        base=base,
        resume=resume,
        progress=progress,
        corpus=corpus,
    )
    first_log = run.train_new_tokens() if config.model.gene_tokens else []
    set_seed(config.seed)
    trainer, texts = run.grpo_trainer() if config.grpo else run.sft_trainer()
    run.fit(trainer, folder)
    if not is_main():  # without waiting: scores take longer than processes wait for each other
        return Model(name=out.name, path=str(out))
    trainer.state.log_history[:0] = first_log
    found = directory.learned(examples) if corpus is None else corpus.learned
    metadata = directory.metadata_of(config, found, genes, start)
    network = _final_network(config, trainer, run, before)
    with complete_folder(out) as temporary:
        log = trainer.state.log_history
        named: dict[str, Any] = {**examples.cells, **examples.sets} if corpus is None else dict(corpus.cells())
        directory.write(temporary, network, model.tokenizer, metadata, named, log, names=config.card.names)
        if config.model.lora and not config.model.lora.merge:
            shutil.copytree(folder / "adapter", temporary / "adapter")
        directory.check_tokenizer(temporary, model.tokens, texts)
        complete = _release(temporary, config, examples, trainer.state, start, progress=progress)
        if out.exists():  # a model whose last steps failed
            shutil.rmtree(out)
    if complete:
        shutil.rmtree(folder, ignore_errors=True)
    written = resolve(out)
    log_only_answers(written.metadata.get("calibration", {}))
    return written


def _configuration(
    config: TrainConfig | str | Path, base: str | Path | None, options: Mapping[str, Any], settings: Sequence[str]
) -> tuple[TrainConfig, str | Path]:
    """Configuration, and the folder that its files are relative to."""
    if isinstance(config, TrainConfig):
        if options or settings:
            raise TypeError(f"options belong to a file instead of a configuration, found {sorted(options) or settings}")
        return config, "." if base is None else base
    if not isinstance(config, str | Path):
        raise TypeError(
            f"train needs a configuration or the name of a file, found {type(config).__name__}: write cells to a file "
            "first, adata.write_h5ad('cells.h5ad')"
        )
    source = Path(config)
    own = Path() if source.suffix in (".yaml", ".yml") else source.parent
    return configure(source, options, settings), own if base is None else base


def can_resume(out: str | Path) -> bool:
    """Whether there is a checkpoint of an interrupted training of `out`. Removes incomplete checkpoints."""
    return _has_checkpoint(_folder(Path(out)))


def _examples(config: TrainConfig, start: Model | None, base: Path) -> Examples:
    """Cells, tasks and sentence lengths of the run."""
    case = start.recipe.case if start else "upper"
    cells = {data.file: TrainingCells(data, base, case, config.data.context) for data in config.data.files}
    if lost := [
        name for name in config.data.context if not any(name in file.prompt_context.names for file in cells.values())
    ]:
        raise ValueError(f"data.context: no file has the obs column {lost[0]!r}; {_columns_of(cells)}")
    exclude_held_out(cells)
    unite_combinations(cells)
    sets = {data.file: TrainingSets(data, base, case) for data in config.data.gene_sets}
    templates = templates_file(config.data.templates, base)
    new = start or Model(name="new model", path="")
    worded = {name: choose_templates(tasks.load(name), new, templates, to_learn=True) for name in config.data.tasks}
    trained = start.metadata.get("lengths", {}) if start else {}
    lengths = genes_per_sentence(worded, {**trained, **config.data.lengths})
    fit_bins(cells, worded)
    check_names(cells, worded, directory.spellings(config.data))
    return Examples(cells=cells, tasks=worded, lengths=lengths, sets=sets)


def _columns_of(cells: Mapping[str, TrainingCells]) -> str:
    return "; ".join(f"{name} has {list(map(str, file.obs.columns))}" for name, file in cells.items())


def _initial_model(
    config: TrainConfig, start: Model | None, examples: Examples, corpus: Corpus | None
) -> tuple[TrainableModel, tuple[str, ...] | None]:
    """Model before the training, and its genes (``None``: all that its tokenizer can write).

    Drops genes of the cells that the model cannot write.
    """
    scratch, gene_tokens = config.model.from_scratch, config.model.gene_tokens
    settings = scratch.tokenizer if scratch else gene_tokens
    common: tuple[str, ...] = ()
    if settings and examples.cells:
        of_today = scratch is not None and scratch.tokenizer.approved_symbols
        common = common_genes(examples.cells, settings.min_cells, approved_symbols=of_today)
    if settings and not examples.cells:
        common = tuple(sorted({gene for file in examples.sets.values() for gene in file.symbols}))
    if settings and corpus is not None:
        common = corpus.common_genes(settings.min_cells)
    genes: tuple[str, ...] | None = None
    if start:
        model = networks.load(config.model, start, common)
        genes = start.genes and tuple(dict.fromkeys((*start.genes, *common)))
    else:
        model = new_model(config, common, examples.cells, examples.tasks, examples.sets, corpus)
        if scratch and scratch.tokenizer.kind == "genes":
            genes = common

    def known(symbols: Sequence[str]) -> NDArray[np.bool_]:
        writable = model.tokens.known(symbols)
        return writable & np.isin(symbols, genes) if genes else writable

    if start and corpus is not None:
        corpus.check_genes(known, start.name)
    for cells in examples.cells.values():
        cells.keep_genes(known)
    for sets in examples.sets.values():
        sets.keep_genes(known)
    networks.set_dropout(model.network, config)
    size = config.model.change_vectors
    if size is None:
        size = N_CHANGE_VECTORS if start and _has_new_perturbations(examples.cells, start) else 0
    if size:
        if "perturb" not in examples.lengths:
            raise ValueError(
                f"model.change_vectors: {size} needs the task perturb in data.tasks, found {sorted(examples.lengths)}"
            )
        add_change_vectors(model, examples.cells, examples.lengths["perturb"], size, config.seed)
    return model, genes


def _final_network(config: TrainConfig, trainer: Any, run: TrainingRun, before: Mapping[str, Any]) -> Any:
    """Network to save: adapters merged, interpolated with the weights before the training, in ``save_dtype``."""
    import torch

    trainer.model.config.use_cache = True
    network = networks.merged_network(trainer, config, run.model, run.folder)
    networks.interpolate_weights(network, before, config.model.start_share)
    return network.to(getattr(torch, config.checkpoints.save_dtype))


def _release(
    folder: Path, config: TrainConfig, examples: Examples, state: Any, start: Model | None, *, progress: bool
) -> bool:
    """Calibrate and score the model, measure responses, and write its card; a step that fails is recorded, not raised.

    Returns
    -------
    Whether all steps succeeded.
    """
    cells = list(examples.cells.values())
    attempts = Attempts(folder)
    attempts.run("calibration", lambda: calibrate(folder, cells, progress=progress))
    attempts.run("density of training cells", lambda: fit_density(folder, cells, seed=config.seed))
    size = config.card.gene_part
    attempts.run("gene part of embeddings", lambda: fit_gene_part(folder, cells, size, seed=config.seed))
    responses = attempts.run("responses", lambda: fit_responses(folder, cells, seed=config.seed, progress=progress))
    if start and (lost := sorted(set(start.metadata.get("responses", {})) - set(responses or {}))):
        logger.warning(
            "%s has measured responses to %d perturbations that this training does not include (such as %s); the "
            "new model has none for them",
            start.name,
            len(lost),
            lost[0],
        )
    score_cells = config.card.score_cells
    scores = attempts.run("scores", lambda: scorecard.scores(folder, cells, score_cells, seed=config.seed)) or []
    scores += attempts.run("scores of gene sets", lambda: set_scores(folder, examples.sets.values(), score_cells)) or []
    attempts.run("card", lambda: model_card.write_card(folder, config, state, scores, scorecard.as_markdown(scores)))
    attempts.record()
    return not attempts.failed


def _folder(out: Path) -> Path:
    return out.with_name(out.name + ".training")


def _has_checkpoint(folder: Path) -> bool:
    """Whether there is a complete checkpoint. Removes incomplete ones."""
    for checkpoint in folder.rglob("checkpoint-*"):
        if not (checkpoint / "trainer_state.json").is_file() and is_main():  # written last
            shutil.rmtree(checkpoint)
    return any(folder.rglob("checkpoint-*/trainer_state.json")) or (folder / NEW_TOKENS_FILE).exists()


def _check_folders(config: TrainConfig, out: Path, folder: Path, resume: bool) -> None:
    has_checkpoint = _has_checkpoint(folder)
    try_again = resume and has_checkpoint and (out / METADATA_FILE).is_file() and resolve(out).metadata.get("failed")
    if out.exists() and not try_again:
        raise FileExistsError(f"{out} exists already; choose another directory or remove it")
    if has_checkpoint and not resume:
        raise FileExistsError(f"{folder} holds an unfinished training: resume it, or remove it to begin again")
    if resume and not has_checkpoint:
        raise FileNotFoundError(f"there is no checkpoint in {folder} to resume from; begin again without resume")
    settings = plain(config)
    if resume and (stored := json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))) != settings:
        before, now = flat(stored), flat(settings)
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        raise ValueError(
            f"the training in {folder} began with other settings ({', '.join(changed)}); resume it with those"
        )
    out.parent.mkdir(parents=True, exist_ok=True)


def _check_sharded(config: TrainConfig, resume: bool) -> None:
    if config.grpo:
        refuse_sharded("rewards")
    if config.model.gene_tokens:
        refuse_sharded("tokens for genes (model.gene_tokens)")
    if config.model.quantize:
        refuse_sharded("quantised weights (model.quantize)")
    if resume:
        refuse_sharded("--resume")
    if os.environ.get("FSDP_VERSION", "1") != "2":
        refuse_sharded("its version 1 (pass --fsdp_version 2)")


def _with_inherited_names(config: TrainConfig, start: Model | None) -> TrainConfig:
    """Configuration with the starting model's name for no perturbation, which is forgotten without such pairs."""
    name = start.metadata.get("no_perturbation") if start else None
    if not name or config.grpo:  # rewards are of perturbed cells only
        return config
    files = tuple(_with_name(file, name) for file in config.data.files)
    return replace(config, data=replace(config.data, files=files))


def _with_name(file: TrainingFile, name: str) -> TrainingFile:
    if file.perturbation is None or file.no_perturbation or "perturb" not in file.tasks:
        return file
    return replace(file, perturbation=replace(file.perturbation, no_perturbation=name))


def _has_new_perturbations(cells: Mapping[str, TrainingCells], start: Model) -> bool:
    """Whether perturbations are new to `start`, a whole-gene model with a name for no perturbation."""
    if not start.metadata.get("no_perturbation") or not start.genes:
        return False
    known = start.metadata.get("perturbations", {})
    return any(
        name not in known
        for file in cells.values()
        if file.perturbation is not None and "perturb" in file.data.tasks
        for name in set(file.perturbation[~file.test]) - {None, file.data.control}
    )
