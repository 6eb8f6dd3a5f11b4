"""Directory of a trained model: weights, tokenizer, metadata, split and training log."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.genes.symbol_table import table_year
from cell2sen.data.splits import are_counted, hashes_of_names, sha256_of_names
from cell2sen.engine.tokenization.tokenizer import Tokens, load_tokens
from cell2sen.inference.annotate import LABEL_KEYS
from cell2sen.inference.templates import as_mapping
from cell2sen.model import METADATA_FILE, TRAINED_ON_HASHES, Model
from cell2sen.sentences.rank_fit import RankFitter
from cell2sen.sentences.ranking import Recipe
from cell2sen.training.config.data import DataConfig
from cell2sen.training.config.settings import TrainConfig
from cell2sen.training.config.training_file import plain
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.gene_sets import TrainingSets
from cell2sen.training.examples.pairs import Examples

#: File with the losses and rewards of the measured steps.
LOG_FILE = "training_log.json"

#: Files with the names of training and of held-out cells: ``{file: [names]}``.
TRAINED_ON_FILE, HELD_OUT_FILE = "trained_on.json", "held_out.json"


class Named(Protocol):
    """Names of cells or gene sets, and which of them are held out."""

    @property
    def names(self) -> Sequence[str]:
        """Names, which are stored with the model."""

    @property
    def test(self) -> NDArray[np.bool_]:
        """Held-out ones, bool (cells,)."""


def learned(examples: Examples, fitter: RankFitter | None = None) -> dict[str, Any]:
    """What a model learns from examples, as plain values: the part of its metadata that is of its training data.

    Parameters
    ----------
    fitter
        Rank fit of training cells, for cells without their expression; by default that of the examples' cells.
    """
    cells = examples.cells
    if fitter is None:
        fitter = RankFitter()
        for file in cells.values():
            file.add_to(fitter)
    fit = fitter.fit()
    names = [file.data.no_perturbation for file in cells.values() if file.data.no_perturbation]
    organisms = {name for file in cells.values() for name in file.organism}
    organisms |= {file.organism for file in examples.sets.values()}
    return {
        "lengths": dict(examples.lengths),
        "templates": {name: as_mapping(task) for name, task in examples.tasks.items()},
        "fit": dataclasses.asdict(fit) if fit else None,
        "labels": _counts(examples, "cell_type"),
        "perturbations": _counts(examples, "perturbation"),
        "no_perturbation": names[0] if names else None,
        "organisms": sorted(organisms),
        "split": {name: split_of(file) for files in (cells, examples.sets) for name, file in files.items()},
        "lists": _label_lists(examples),
        "columns": _columns(examples),
    }


def metadata_of(
    config: TrainConfig, found: Mapping[str, Any], genes: tuple[str, ...] | None, start: Model | None
) -> dict[str, Any]:
    """Metadata of a trained model, the content of ``cell2sen.json``.

    Parameters
    ----------
    found
        What it has learned, see :func:`learned`.
    genes
        Genes that the model can write; ``None`` for all that its tokenizer can write.
    start
        Model that was fine-tuned. Its entries are kept where this training sets none.
    """
    before = start.metadata if start else {}
    no_perturbation = found["no_perturbation"]
    metadata: dict[str, Any] = {
        "recipe": dataclasses.asdict(_recipe(config, found, start)),
        "lengths": {**before.get("lengths", {}), **found["lengths"]},
        "dtype": "float32" if start is None else start.resolved_dtype,
        "stop": list(start.stop) if start else [],
        "templates": {**before.get("templates", {}), **found["templates"]},
        "fit": found["fit"] or before.get("fit"),
        "genes": list(genes) if genes else None,
        "symbol_table": table_year(),
        # A closed set: the labels of this training alone, not mixed with earlier ones.
        "labels": found["labels"] or before.get("labels", {}),
        "spellings": {**before.get("spellings", {}), **spellings(config.data)},
        "perturbations": {**before.get("perturbations", {}), **found["perturbations"]},
        "no_perturbation": before.get("no_perturbation") if no_perturbation is None else no_perturbation,
        "organisms": sorted({*before.get("organisms", []), *found["organisms"]}),
        "training": _settings(config, start),
        "split": found["split"],
        "started_from": None,
    }
    metadata |= found["lists"]
    for key, values in found["columns"].items():
        if merged := {**before.get(key, {}), **values}:
            metadata[key] = merged
    if start is not None:
        history = {key: before[key] for key in ("labels", "split", "training", "started_from") if before.get(key)}
        metadata["started_from"] = {**start.provenance(), **history}
    return metadata


def _settings(config: TrainConfig, start: Model | None) -> dict[str, Any]:
    settings: dict[str, Any] = plain(config)
    if start and start.is_local:  # the folder's name only: local paths are private
        settings["model"]["start"] = Path(start.path).name
    return settings


def _counts(examples: Examples, slot: str) -> dict[str, int]:
    """Number of training cells of each label or perturbation in the tasks, sorted by name.

    Controls are counted as a perturbation only if perturbations are answers.
    """
    counts: dict[str, int] = {}
    for file in examples.cells.values():
        learned = [examples.tasks[name] for name in file.data.tasks]
        column = file.label if slot == "cell_type" else file.perturbation
        if column is None or not any(slot in (*task.slots, task.target) for task in learned):
            continue
        with_controls = slot == "cell_type" or any(task.target == slot for task in learned)
        for value in column[~file.test]:
            if value is not None and (with_controls or value != file.data.control):
                counts[str(value)] = counts.get(str(value), 0) + 1
    return dict(sorted(counts.items()))


def _label_lists(examples: Examples) -> dict[str, dict[str, int]]:
    """Number of training cells of each label, by target, for labels other than cell types and perturbations."""
    lists: dict[str, dict[str, int]] = {}
    for file in examples.cells.values():
        for task in (examples.tasks[name] for name in file.data.tasks):
            of_slot = task.answer == "label" and task.column is None
            if of_slot and task.target is not None and task.target not in LABEL_KEYS:
                values = [str(value) for value in file.values(task.target)[~file.test] if value is not None]
                lists[task.target] = dict(sorted((Counter(lists.get(task.target)) + Counter(values)).items()))
    return lists


def _columns(examples: Examples) -> dict[str, Any]:
    """Names, numbers and contexts of obs columns: under ``label_columns``, ``number_columns`` and ``context``.

    Of labels and contexts the number of training cells; of numbers their bins, and the training cells of each. Cells
    count that a task learns the value from: not those without another value of a joint answer.
    """
    labels: dict[str, Counter[str]] = {}
    numbers: dict[str, Counter[str]] = {}
    bins: dict[str, dict[str, Any]] = {}
    context: Counter[str] = Counter()
    for file in examples.cells.values():
        learned: dict[tuple[str, str], list[Any]] = {}
        for task in (examples.tasks[name] for name in file.data.tasks if examples.tasks[name].is_of_columns):
            for part, written in zip(task.answered, file.answers_of_parts(task), strict=True):
                key = str(part.answer), str(part.column)
                answers = file.answers(part)
                known = [None if answer is None else value for answer, value in zip(written, answers, strict=True)]
                before_it = learned.get(key, known)
                learned[key] = [one if one is not None else other for one, other in zip(before_it, known, strict=True)]
        for (answer, column), values in learned.items():
            counted = [
                str(value) for value, test in zip(values, file.test, strict=True) if value is not None and not test
            ]
            (numbers if answer == "number" else labels).setdefault(column, Counter()).update(counted)
            if answer == "number":
                bins[column] = file.bins[column].record()
        of_prompts = file.prompt_context
        for name, has in zip(of_prompts.names, np.array(of_prompts.values, dtype=object).T, strict=True):
            context[name] += sum(value is not None for value in has[~file.test])
    sorted_labels = {column: dict(sorted(counts.items())) for column, counts in labels.items()}
    binned = {column: {**bins[column], "n_cells": dict(counts)} for column, counts in numbers.items()}
    return {"label_columns": sorted_labels, "number_columns": binned, "context": dict(context)}


def _recipe(config: TrainConfig, found: Mapping[str, Any], start: Model | None) -> Recipe:
    """Recipe of `start`, with a limit that does not cut the sentences of this training at inference."""
    given = config.data.lengths.get("annotate")
    recipe = start.recipe if start else Recipe(max_genes=given, case=found.get("case", "upper"))
    if recipe.max_genes is None:
        return recipe
    return dataclasses.replace(recipe, max_genes=max([recipe.max_genes, *found["lengths"].values()]))


def spellings(data: DataConfig) -> dict[str, list[str]]:
    """Label → other spellings and broader labels, see :func:`cell2sen.inference.annotate.trained_labels`."""
    names = {label: list(others) for label, others in data.names.spellings.items()}
    for name, covered in data.names.broader.items():
        for label in covered:
            names.setdefault(label, []).append(name)
    return names


def split_of(cells: TrainingCells | TrainingSets) -> dict[str, Any]:
    """Numbers of training and held-out cells (or gene sets), and a hash of the names of the held-out ones."""
    names = [name for name, test in zip(cells.names, cells.test, strict=True) if test]
    return {"n_train": int(np.sum(~cells.test)), "n_held_out": len(names), "sha256_of_held_out": sha256_of_names(names)}


def write(
    folder: Path,
    network: Any,
    tokenizer: Any,
    metadata: dict[str, Any],
    cells: Mapping[str, Named],
    log: Sequence[Mapping[str, Any]],
    *,
    names: bool = True,
) -> None:
    """Write weights, tokenizer, metadata, training log, and the names of training and held-out cells.

    Without `names` only hashes of the names of training cells are written, by which evaluations recognise them.
    """
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    finite = [
        {key: value for key, value in entry.items() if not isinstance(value, float) or math.isfinite(value)}
        for entry in log
    ]
    _dump(folder / LOG_FILE, finite)
    if names:
        for file, side in ((TRAINED_ON_FILE, False), (HELD_OUT_FILE, True)):
            _dump(
                folder / file, {name: np.array(each.names)[each.test == side].tolist() for name, each in cells.items()}
            )
    else:
        write_hashes(folder, cells.values())
    _dump(folder / METADATA_FILE, metadata | {"weights_sha256": hash_of_weights(folder)})


def write_hashes(folder: Path, cells: Iterable[Named]) -> None:
    """Write :data:`cell2sen.model.TRAINED_ON_HASHES`: hashes of the names of training cells, uint64, ascending.

    Names that count cells (0, 1, 2, …) are left out: equal ones prove nothing.
    """
    names = [np.array(each.names, dtype=object)[~each.test].tolist() for each in cells]
    hashes = hashes_of_names(name for file in names if not are_counted(file) for name in file)
    np.save(folder / TRAINED_ON_HASHES, hashes)


def update_metadata(folder: Path, changes: Mapping[str, Any], remove: Sequence[str] = ()) -> dict[str, Any]:
    """Change and remove keys of the metadata on disk; returns all of the metadata."""
    file = folder / METADATA_FILE
    metadata: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for key in remove:
        metadata.pop(key, None)
    _dump(file, metadata := {**metadata, **changes})
    return metadata


def _dump(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def hash_of_weights(folder: Path) -> str:
    """First 16 hex digits of the SHA-256 of a model's safetensors files."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            while block := stream.read(2**24):
                digest.update(block)
    return digest.hexdigest()[:16]


def check_tokenizer(folder: Path, tokens: Tokens, texts: Sequence[str]) -> None:
    """Check that the saved tokenizer encodes texts as the tokenizer of the training does.

    Raises
    ------
    RuntimeError
        It does not.
    """
    written = load_tokens(str(folder), local_files_only=True)
    if written.ids(texts) != tokens.ids(texts) or (written.bos, written.eos) != (tokens.bos, tokens.eos):
        raise RuntimeError(
            "the saved tokenizer gives other token ids than that of the training, so predictions would be wrong; "
            "please report this with the name of the starting model"
        )
