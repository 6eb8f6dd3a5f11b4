"""Options of the command line → what a training file would say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cell2sen.data.reader import open_reader
from cell2sen.training.config import TrainConfig, checked_value, from_mapping, parse_yaml, read_values

#: Draws of each cell, where a file is learned from options alone: as many as make so many pairs, within limits.
PAIRS, EPOCHS = 10_000, (5, 20)

#: Options that are about the model and its training, not about the data.
GENERAL_OPTIONS = ("model", "epochs", "lora", "quantize", "packing", "gene_tokens")

#: Options → the part of a training file that they are keys of.
PARTS = {
    "from_scratch": ("hidden_size", "layers", "heads", "tokenizer"),
    "grpo": ("gene_sets", "gene_set"),
}

#: Option → key of :class:`cell2sen.training.cells.Split`.
SPLIT_OPTIONS = {"split_by": "by", "hold_out": "values", "test": "test"}


def configure(source: str | Path, options: Mapping[str, Any], settings: Sequence[str] = ()) -> TrainConfig:
    """A training file with changes, or a configuration for one AnnData file from options alone.

    Parameters
    ----------
    source
        Training file (``.yaml``), or the AnnData file to learn from.
    options
        :data:`GENERAL_OPTIONS`, ``from_scratch`` and its sizes, ``reward`` (``NAME`` or ``NAME=WEIGHT``) and its gene
        set; for an AnnData file ``tasks`` and what :class:`cell2sen.training.cells.TrainingData` and
        :class:`cell2sen.training.cells.Split` want, too. ``None`` and empty ones do not count. Without `tasks` what the
        columns allow is learned; controls are matched by cell type, if there is such a column and no other context.
    settings
        ``key=value`` for any key of a training file, the value in YAML: ``learning_rate=1e-4``, ``lora.r=8``.

    Raises
    ------
    ValueError
        Unknown keys, options that do not fit the source, nothing to learn.
    """
    source = Path(source)
    given = {key: value for key, value in options.items() if value == 0 or value}
    given = {key: value for key, value in given.items() if value is not False}
    general: dict[str, Any] = {key: given.pop(key) for key in GENERAL_OPTIONS if key in given}
    rewards = [str(one).partition("=") for one in given.pop("reward", ())]
    if rewards:
        general["grpo"] = {
            "rewards": {name: checked_value(weight or 1, "float", "--reward") for name, _, weight in rewards}
        }
    if given.pop("from_scratch", False):
        general["from_scratch"] = {}
    for part, keys in PARTS.items():
        for key in [key for key in keys if key in given]:
            if part not in general:
                option = "--from-scratch" if part == "from_scratch" else "--reward"
                raise ValueError(f"--{key.replace('_', '-')} goes with {option}")
            general[part][key] = given.pop(key)
    if source.suffix in (".yaml", ".yml"):
        if given:
            raise ValueError(f"{sorted(given)} belong under data: of {source}, not beside it")
        values = read_values(source)
        if "model" in general:
            values.pop("from_scratch", None)
        if "from_scratch" in general:
            values.pop("model", None)
            general["from_scratch"] = {**(values.get("from_scratch") or {}), **general["from_scratch"]}
    else:
        start = {} if "from_scratch" in general else {"model": "nano"}
        values = {**start, "augmentation": {"thin": [0.3, 1.0]}, "data": [_data(source, given, "grpo" in general)]}
        # A pass over the cells is a new draw of their sentences.
        draws = general.pop("epochs", None) or (1 if "grpo" in general else _epochs(source))
        values["data"][0]["draws"] = dict.fromkeys(values["data"][0]["tasks"], draws)
    values |= general
    for setting in settings:
        key, found, text = setting.partition("=")
        if not found:
            raise ValueError(f"settings are KEY=VALUE, found {setting!r}")
        place = values
        *parts, last = key.split(".")
        for part in parts:
            place[part] = dict(place[part]) if isinstance(place.get(part), Mapping) else {}
            place = place[part]
        place[last] = parse_yaml(text)
    return from_mapping(values)


def _epochs(source: Path) -> int:
    """Draws of each cell: few cells have to be seen more often."""
    if not source.exists():  # an error that reading it will explain
        return EPOCHS[0]
    with open_reader(source) as opened:
        n_cells = len(opened.obs)
    return min(max(-(-PAIRS // max(1, n_cells)), EPOCHS[0]), EPOCHS[1])


def _data(source: Path, given: dict[str, Any], rewarded: bool) -> dict[str, Any]:
    split = {key: given.pop(option) for option, key in SPLIT_OPTIONS.items() if option in given}
    columns = {"annotate": "cell_type", "perturb": "perturbation"}
    if rewarded:  # of sentences
        columns = {"perturb": "perturbation"} if "perturbation" in given else {"generate": "cell_type"}
    tasks = given.pop("tasks", [task for task, column in columns.items() if column in given])
    if not tasks:
        raise ValueError(
            "nothing to learn: name the obs column of the cell type (cell_type), of the perturbation, or both"
        )
    context = [given["cell_type"]] if "cell_type" in given and "perturbation" in given else []
    return {"file": source.name, "tasks": tasks, "context": context, "split": split, **given}
