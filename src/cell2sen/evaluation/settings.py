"""Frozen settings of an evaluation: columns, values, leak check, sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from cell2sen.data.scale.units import ScaleName

Case = Literal["auto", "keep", "upper"]
Task = Literal["perturb", "generate", "annotate", "number", "text", "integrate", "name_gene_set", "list_gene_set"]
TASKS: tuple[Task, ...] = get_args(Task)
Leaks = Literal["raise", "report"]

#: Records of this package whose task is "text".
TEXT_VERBS = ("caption", "interpret", "ask")


def as_list(names: str | Sequence[str]) -> list[str]:
    """One or several names as a list."""
    return [names] if isinstance(names, str) else list(names)


def check_menu(name: str, value: Any, menu: Any) -> None:
    """Raise a ValueError unless `value` is in a menu, a ``Literal``."""
    if value not in get_args(menu):
        raise ValueError(f"{name} must be one of {list(get_args(menu))}, found {value!r}")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """``obs`` columns and their values; see :func:`cell2sen.evaluation.evaluate.evaluate` for these and all below."""

    perturbation: str = "perturbation"
    predicted_perturbation: str | None = None
    control: str | Sequence[str | None] | None = "control"
    context: str | Sequence[str] = ()
    label: str | Sequence[str] = "cell_type"
    predicted_label: str | Sequence[str] | None = None
    rename: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Values:
    """Layers and scales of the expression values; gene symbols and their case."""

    layer: str | None = None
    real_layer: str | None = None
    scale: ScaleName = "auto"
    real_scale: ScaleName = "auto"
    symbols: str | None = None
    case: Case = "auto"

    def __post_init__(self) -> None:
        check_menu("case", self.case, Case)


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """Training cells for the leak check, and whether a leak raises."""

    train_names: Any = None
    split: Any = None
    leaks: Leaks = "raise"

    def __post_init__(self) -> None:
        check_menu("leaks", self.leaks, Leaks)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Controls, embedding, bootstrap samples, numbers of cells and the seed."""

    controls: Literal["shared", "split"] = "shared"
    embedding: str = "pca"
    components: int = 50
    resamples: int = 100
    max_cells: int = 500
    min_cells: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.controls not in ("split", "shared"):
            raise ValueError(f"controls must be 'split' or 'shared', found {self.controls!r}")
        if self.resamples < 0 or self.max_cells < 2 or self.min_cells < 2:
            raise ValueError(
                f"resamples must be at least 0, max_cells and min_cells at least 2: found {self.resamples}, "
                f"{self.max_cells}, {self.min_cells}"
            )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All arguments of an evaluation except the cells."""

    task: Task | None = None
    metrics: Sequence[str] | None = None
    encoder: Any = None
    ontology: bool = False
    progress: bool = False
    columns: Columns = field(default_factory=Columns)
    values: Values = field(default_factory=Values)
    leakage: Leakage = field(default_factory=Leakage)
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"task must be one of {list(TASKS)}, found {self.task!r}")

    @classmethod
    def of(cls, **options: Any) -> Settings:
        """Settings from some keyword arguments of :func:`cell2sen.evaluation.evaluate.evaluate`."""
        parts = {"columns": Columns, "values": Values, "leakage": Leakage, "sampling": Sampling}
        grouped: dict[str, Any] = {}
        for part, kind in parts.items():
            names = [option.name for option in fields(kind) if option.name in options]
            grouped[part] = kind(**{name: options.pop(name) for name in names})
        return cls(**grouped, **options)

    def record(self) -> dict[str, Any]:
        """The arguments that scores depend on, as plain values."""
        sampling, encoder = self.sampling, self.encoder
        arguments = {option.name: getattr(self.columns, option.name) for option in fields(Columns)} | {
            "encoder": encoder if encoder is None or isinstance(encoder, str) else "passed as an object",
            "ontology": self.ontology,
            "case": self.values.case,
            "resamples": sampling.resamples,
            "max_cells": sampling.max_cells,
            "min_cells": sampling.min_cells,
            "seed": sampling.seed,
            "leaks": self.leakage.leaks,
        }
        return {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
