"""Training files: YAML to TrainConfig, with errors that name the right key."""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cell2sen.data.names.text_files import read_text
from cell2sen.training.config.data import DataConfig, LabelColumn, PerturbationColumn, TrainingFile
from cell2sen.training.config.grpo import Grpo, RewardGenes, SampledAnswers
from cell2sen.training.config.model import ModelConfig, NewTokenizer, Scratch
from cell2sen.training.config.settings import Card, Checkpoints, Compute, Optimiser, TrainConfig

#: Groups whose keys were flat before: type of the group, and former key → present key where the key was renamed.
_GROUPS: Mapping[str, tuple[type, Mapping[str, str]]] = {
    "model": (ModelConfig, {"keep": "start_share"}),
    "data": (DataConfig, {"labels": "names.spellings"}),
    "optimiser": (Optimiser, {}),
    "compute": (Compute, {}),
    "checkpoints": (Checkpoints, {}),
    "card": (Card, {}),
}

#: Former keys of each part of a training file → where they are now.
MOVED: Mapping[type, Mapping[str, str]] = {
    TrainConfig: {
        **{
            field.name: f"{group}.{field.name}"
            for group, (kind, _) in _GROUPS.items()
            for field in dataclasses.fields(kind)
        },
        **{former: f"{group}.{key}" for group, (_, renamed) in _GROUPS.items() for former, key in renamed.items()},
    },
    Scratch: {
        "text_tokens": "tokenizer.text_tokens",
        "min_cells": "tokenizer.min_cells",
        "words": "tokenizer.words",
        "gene_vectors": "initial.gene_vectors",
        "initializer_range": "initial.std",
        "layer_norm_eps": "initial.layer_norm_eps",
    },
    TrainingFile: {
        "labels": "cell_type.names",
        "label_where": "cell_type.where",
        "control": "perturbation.control",
        "context": "perturbation.context",
        "perturbations": "perturbation.names",
        "no_perturbation": "perturbation.no_perturbation",
        "exclude_held_out_of": "split.exclude_held_out_of",
        "draws": "tasks, as {TASK: DRAWS}",
        "layer": "matrix.layer",
        "use_raw": "matrix.use_raw",
        "symbols": "matrix.symbols",
        "organism": "matrix.organism",
    },
    Grpo: {
        "gene_sets": "genes.gmt",
        "gene_set": "genes.sets",
        "prompts": "answers.prompts",
        "temperature": "answers.temperature",
        "guided": "answers.guided",
        "max_new_tokens": "answers.max_new_tokens",
        "held_out": "answers.held_out",
    },
}

#: Parts that were a single value before → present key of that value.
_WAS_VALUE: Mapping[type, str] = {
    ModelConfig: "start",
    DataConfig: "files",
    Card: "text",
    NewTokenizer: "kind",
    RewardGenes: "symbols",
    SampledAnswers: "per_prompt",
}

#: Parts that can be given as the name of an obs column alone.
_COLUMNS = (LabelColumn, PerturbationColumn)


def read_config(path: str | Path) -> TrainConfig:
    """Configuration in a training file (YAML).

    Raises
    ------
    ValueError
        As for :func:`from_mapping`, or the file does not contain keys and values.
    """
    with errors_of(path):
        return from_mapping(read_values(Path(path)))


@contextlib.contextmanager
def errors_of(path: str | Path) -> Iterator[None]:
    """Name the training file in errors of the block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def parse_yaml(text: str) -> Any:
    """Plain values of a YAML text."""
    try:
        import yaml
    except ImportError as error:  # pragma: no cover - yaml comes with transformers
        raise ImportError("training files need PyYAML: pip install 'cell2sen[train]'") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"this is no YAML: {' '.join(str(error).split())}") from error


def read_values(path: Path) -> dict[str, Any]:
    """Keys and values of a training file, unchecked."""
    values = parse_yaml(read_text(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a training file: it must hold keys and values, found {type(values).__name__}")
    return values


def from_mapping(values: Mapping[str, Any]) -> TrainConfig:
    """Configuration from plain values, with the keys of the YAML file.

    Raises
    ------
    ValueError
        An unknown or former key (lists the available keys, or names the new place), no data, or settings that exclude
        each other.
    """
    data = values.get("data")
    if not data or (isinstance(data, Mapping) and not any(data.get(key) for key in ("files", "gene_sets", "corpus"))):
        raise ValueError(
            "no data: name the files, as in data: {files: [{file: cells.h5ad, tasks: [annotate], cell_type: COLUMN}]}"
        )
    config: TrainConfig = build(TrainConfig, {"model": {}, **values})
    return config


def build(kind: Any, values: Any, place: str = "") -> Any:
    """Part of a configuration from plain values.

    Parameters
    ----------
    kind
        Dataclass of the part.
    place
        Its dotted key, for error messages; empty for the whole file.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    what, prefix = place or "the training file", f"{place}." if place else ""
    if isinstance(values, kind):
        return values
    if kind in _COLUMNS and isinstance(values, str):
        values = {"column": values}
    if not isinstance(values, Mapping):
        if kind in _WAS_VALUE:
            key = _WAS_VALUE[kind]
            raise ValueError(f"{what} is now {prefix}{key}: write {place.rpartition('.')[2]}: {{{key}: …}}")
        raise ValueError(f"{what} must hold keys and values, found {values!r}; available: {sorted(names)}")
    moved = MOVED.get(kind, {})
    if former := [key for key in values if key in moved and key not in names]:
        raise ValueError("; ".join(f"{prefix}{key} is now {prefix}{moved[key]}" for key in former))
    if unknown := sorted(set(map(str, values)) - set(names)):
        raise ValueError(f"{what} has unknown keys {unknown}; available: {sorted(names)}")
    required = [field.name for field in dataclasses.fields(kind) if _is_required(field)]
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"{what} lacks the keys {missing}, found {sorted(map(str, values))}")
    hints = typing.get_type_hints(kind)
    return kind(**{key: converted(value, hints[key], f"{prefix}{key}") for key, value in values.items()})


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def converted(value: Any, kind: Any, place: str) -> Any:
    """Plain value as the type of its key; `place` is the dotted key, for error messages."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else converted(value, arguments[0], place)
    if dataclasses.is_dataclass(kind):
        return build(kind, {} if value is True or value is None else value, place)
    if origin is tuple:
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(_item(item, arguments[0], place, of=len(values)) for item in values)
    if origin is Mapping:
        return _mapping(value, arguments[1], place)
    if kind in (int, float):
        return number(value, kind, place)
    return str(value) if kind is str else value


def _item(value: Any, kind: Any, place: str, of: int) -> Any:
    """One of several values of a key; errors in one of several files name that file."""
    try:
        return converted(value, kind, place)
    except ValueError as error:
        if of > 1 and isinstance(value, Mapping) and value.get("file"):
            raise ValueError(f"{error} (file: {value['file']})") from error
        raise


def _mapping(value: Any, kind: Any, place: str) -> dict[str, Any]:
    if value is None:
        return {}
    if kind is float and isinstance(value, str | list | tuple):  # names, each with the value 1
        value = dict.fromkeys([value] if isinstance(value, str) else value, 1.0)
    if not isinstance(value, Mapping):
        raise ValueError(f"{place} must hold keys and values, found {value!r}")
    return {str(key): converted(item, kind, f"{place}.{key}") for key, item in value.items()}


def number(value: Any, kind: type, place: str) -> Any:
    """Value as int or float; `place` is its name in error messages."""
    try:
        parsed = float(value)  # YAML reads 1e-4 as text
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place} must be a number, found {value!r}") from error
    if kind is int and parsed != int(parsed):
        raise ValueError(f"{place} must be a whole number, found {value!r}")
    return kind(parsed)


def plain(value: Any) -> Any:
    """Configuration, or a part of one, as lists and dictionaries for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one: dotted key → value."""
    rows: dict[str, Any] = {}
    for key, value in values.items():
        rows |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return rows
