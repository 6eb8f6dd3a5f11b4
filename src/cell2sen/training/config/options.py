"""Options of a training → TrainConfig: of the command line, and of train() with a file instead of a configuration."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cell2sen.data.reader import open_reader
from cell2sen.tasks import COLUMN_TASKS, joint_name
from cell2sen.tasks import load as loaded
from cell2sen.training.config.data import BY_SPACE
from cell2sen.training.config.settings import TrainConfig
from cell2sen.training.config.training_file import errors_of, from_mapping, number, parse_yaml, read_values

#: Without a training file: number of training pairs, and limits of the draws of each cell that give as many.
PAIRS, MIN_EPOCHS, MAX_EPOCHS = 10_000, 5, 20
#: Measurements without improvement after which a training on a file of cells stops.
PATIENCE = 3

#: Option → dotted key of a training file.
PLACES = {
    "model": "model.start",
    "lora": "model.lora",
    "quantize": "model.quantize",
    "gene_tokens": "model.gene_tokens",
    "from_scratch": "model.from_scratch",
    "tokenizer": "model.from_scratch.tokenizer.kind",
    "hidden_size": "model.from_scratch.hidden_size",
    "layers": "model.from_scratch.layers",
    "heads": "model.from_scratch.heads",
    "reward": "grpo.rewards",
    "gene_sets": "grpo.genes.gmt",
    "gene_set": "grpo.genes.sets",
    "packing": "compute.packing",
    "prompt_context": "data.context",
    "epochs": "optimiser.epochs",
}

#: Options that describe an AnnData file → dotted key of the file's entry.
FILE_PLACES = {
    "task": "tasks",
    "cell_type": "cell_type.column",
    "column": "columns",
    "perturbation": "perturbation.column",
    "control": "perturbation.control",
    "context": "perturbation.context",
    "split_by": "split.by",
    "hold_out": "split.values",
    "test": "split.test",
    "niche": "columns.niche",
    "radius": "matrix.space.radius",
    "nearest": "matrix.space.k",
    "section": "matrix.space.section",
    "layer": "matrix.layer",
    "use_raw": "matrix.use_raw",
    "symbols": "matrix.symbols",
    "organism": "matrix.organism",
    "scale": "matrix.scale",
}

#: Options that describe a GMT file → key of the file's entry.
SET_PLACES = {"task": "tasks", "hold_out": "hold_out", "test": "test", "organism": "organism"}

#: Draws of each gene set without a training file.
SET_DRAWS = 20

#: All options, and those that are lists; Python takes one text, too.
OPTIONS = frozenset({*PLACES, *FILE_PLACES, *COLUMN_TASKS, "joint"})
LISTS = frozenset({"task", "column", "context", "hold_out", "prompt_context", "reward", "gene_set", *COLUMN_TASKS})

#: Flags that add a part of the configuration with its defaults.
PARTS = ("lora", "gene_tokens", "from_scratch")

#: Option → the option that it needs.
NEEDS = {
    **dict.fromkeys(("tokenizer", "hidden_size", "layers", "heads"), "from_scratch"),
    **dict.fromkeys(("gene_sets", "gene_set"), "reward"),
    **dict.fromkeys(("control", "context"), "perturbation"),
}


def configure(source: str | Path, options: Mapping[str, Any], settings: Sequence[str] = ()) -> TrainConfig:
    """Configuration from a training file with changes, or from options alone for one AnnData file.

    Parameters
    ----------
    source
        Training file (``.yaml``), or the AnnData file to learn from.
    options
        Keys of :data:`PLACES`, for an AnnData file also of :data:`FILE_PLACES`. ``None`` and empty ones are left out.
        Without `task` all tasks are learned that the columns allow (with rewards only tasks of sentences); without
        `context` controls are matched by cell type, if that column is given.
    settings
        ``key=value`` for any dotted key of a training file, the value in YAML: ``optimiser.learning_rate=1e-4``.

    Raises
    ------
    ValueError
        Unknown keys, options that do not fit the source, nothing to learn.
    """
    source = Path(source)
    if unknown := sorted(set(options) - OPTIONS):
        raise TypeError(f"there is no option {unknown[0]!r} of a training; available: {sorted(OPTIONS)}")
    given: dict[str, Any] = {
        key: [value] if key in LISTS and isinstance(value, str) else value
        for key, value in options.items()
        if value is not False and (value or value == 0 or (key == "control" and value == ""))  # cells without a value
    }
    for option, needed in NEEDS.items():
        if option in given and needed not in given:
            raise ValueError(f"{option}= needs {needed}=")
    if "reward" in given:
        given["reward"] = _weights(given["reward"])
    if "column" in given:
        given["column"] = _columns(given["column"])
    of_file = {key: given.pop(key) for key in (*FILE_PLACES, *COLUMN_TASKS, "joint") if key in given}
    if source.suffix in (".yaml", ".yml"):
        if of_file:
            raise ValueError(f"{sorted(of_file)} describe one file: name them under data.files of {source} instead")
        with errors_of(source):
            values = read_values(source)
        if "model" in given:
            put(values, "model.from_scratch", None)
        if "from_scratch" in given:
            put(values, "model.start", None)
    elif source.name.endswith((".gmt", ".gmt.gz")):
        values = {"data": {"gene_sets": [_gene_sets_entry(source, of_file, given.pop("epochs", None) or SET_DRAWS)]}}
        if not {"model", "from_scratch"} & set(given):
            raise ValueError("a training on gene sets needs model= (one that reads text), or from_scratch=")
    else:
        # Each of the epochs is a new draw of the cells' sentences.
        draws = given.pop("epochs", None) or (1 if "reward" in given else _draws(source))
        entry = _file_entry(source, of_file, "reward" in given, draws)
        values = {"data": {"files": [entry], "augmentation": {"thin": [0.3, 1.0]}}}
        if "reward" not in given:
            values["checkpoints"] = {"patience": PATIENCE}
        if not {"model", "from_scratch"} & set(given):
            given["model"] = "nano"
    for option, place in PLACES.items():
        if option in given:
            put(values, place, given[option], part=option in PARTS)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"settings are KEY=VALUE, found {setting!r}")
        put(values, key, parse_yaml(text))
    with errors_of(source) if source.suffix in (".yaml", ".yml") else contextlib.nullcontext():
        return from_mapping(values)


def put(values: dict[str, Any], place: str, value: Any, *, part: bool = False) -> None:
    """Set the dotted key `place` of nested dictionaries. A `part` that is there already is kept."""
    *parents, last = place.split(".")
    for parent in parents:
        old = values.get(parent)
        if isinstance(old, str | list):  # a former flat key, which from_mapping refuses
            return
        values[parent] = dict(old) if isinstance(old, Mapping) else {}
        values = values[parent]
    if not part:
        values[last] = value
    elif not isinstance(values.get(last), Mapping):
        values[last] = {}


def _gene_sets_entry(source: Path, options: Mapping[str, Any], draws: float) -> dict[str, Any]:
    """The entry of a GMT file under ``data.gene_sets``."""
    if unknown := sorted(set(options) - set(SET_PLACES)):
        raise ValueError(f"{unknown} describe cells, but {source} has gene sets; available: {sorted(SET_PLACES)}")
    entry: dict[str, Any] = {"file": source.name}
    for option, place in SET_PLACES.items():
        if option in options:
            put(entry, place, options[option])
    return entry | {"tasks": dict.fromkeys(options.get("task") or ("name_gene_set", "list_gene_set"), draws)}


def _weights(rewards: Sequence[str]) -> dict[str, float]:
    """Reward → weight, of ``NAME`` and ``NAME=WEIGHT``."""
    parts = [str(reward).partition("=") for reward in rewards]
    return {name: number(weight or 1, float, "reward=") for name, _, weight in parts}


def _columns(pairs: Sequence[str]) -> dict[str, str]:
    """Slot → obs column, of ``SLOT=COLUMN``."""
    if wrong := [pair for pair in pairs if not all(pair.partition("="))]:
        raise ValueError(f"column= takes SLOT=COLUMN, found {wrong[0]!r}")
    return {slot.strip(): column.strip() for slot, column in (pair.split("=", 1) for pair in pairs)}


def _draws(source: Path) -> int:
    """Draws of each cell: more for few cells."""
    if not source.exists():  # reading it later gives a clear error
        return MIN_EPOCHS
    with open_reader(source) as opened:
        n_cells = len(opened.obs)
    return min(max(-(-PAIRS // max(1, n_cells)), MIN_EPOCHS), MAX_EPOCHS)


def _file_entry(source: Path, options: Mapping[str, Any], rewarded: bool, draws: float) -> dict[str, Any]:
    """The entry of an AnnData file under ``data.files``."""
    columns = {"annotate": "cell_type", "perturb": "perturbation", "niche": "niche"}
    if rewarded:  # rewards compare sentences
        columns = {"perturb": "perturbation"} if "perturbation" in options else {"generate": "cell_type"}
    of_columns = [f"{kind}:{column}" for kind in COLUMN_TASKS for column in options.get(kind, ())]
    tasks = options.get("task") or [task for task, column in columns.items() if column in options]
    if options.get("joint"):
        if len(of_columns) < 2:
            raise ValueError(
                "joint= answers several columns in one text: name them with label=, also the cell type; found "
                f"{of_columns}"
            )
        of_columns = [joint_name(of_columns)]
    tasks = [*tasks, *of_columns]
    if not tasks:
        raise ValueError(
            "nothing to learn: name the obs column of the cell type (cell_type=), of the perturbation (perturbation=), "
            "of the niche (niche=), of other labels (label=) or numbers (number=), or several of them"
        )
    entry: dict[str, Any] = {"file": source.name}
    for option, place in FILE_PLACES.items():
        if option in options:
            put(entry, place, options[option])
    if options.get("split_by") == BY_SPACE or any(loaded(task).space for task in tasks):
        entry.setdefault("matrix", {}).setdefault("space", {})
    if "cell_type" in options and "perturbation" in options:
        entry["perturbation"].setdefault("context", [options["cell_type"]])
    return entry | {"tasks": dict.fromkeys(tasks, draws)}
