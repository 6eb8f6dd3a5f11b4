"""Plan: the file that decides every number of a run in shards, and its identity."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cell2sen.data.expression import Whole
from cell2sen.data.output import complete_file
from cell2sen.data.scale.units import Scale

#: Name of the plan in the folder of a run, and version of its layout.
PLAN_FILE, FORMAT = "plan.json", 1

#: Keys that may differ between machines: where files lie.
_PLACES = frozenset({"path", "id"})


@dataclass(frozen=True, kw_only=True)
class Input:
    """One file of cells."""

    path: str
    name: str
    """Name of the file, by which results name it."""

    cells: int
    genes: int
    fingerprint: str
    """Hash of its content (:mod:`cell2sen.atlas.fingerprints`)."""

    scale: Mapping[str, Any] | None = None
    """Recognised scale, from samples of all cells; ``None``: given by the user."""

    organisms: tuple[str, ...] = ()
    column: str | None = None
    """obs column of the perturbations."""

    perturbations: tuple[tuple[str | None, str | None], ...] = ()
    """Value of that column → perturbation that is predicted, ``None`` for none. Without a column the first is of all
    cells."""

    @property
    def whole(self) -> Whole | None:
        """What was found in the whole file, for its rows."""
        if self.scale is None:
            return None
        values = {**self.scale, "evidence": tuple(self.scale.get("evidence", ()))}
        return Whole(scale=Scale(**values), organisms=self.organisms)


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Everything that changes the numbers of a run, and its cut into shards."""

    verb: str
    arguments: Mapping[str, Any]
    """Arguments of the verb, as of :mod:`cell2sen.tl`."""

    options: Mapping[str, Any]
    """Options of the matrix, the sentences and the engine."""

    model: Mapping[str, Any]
    """``path``, ``name``, ``sha256`` of its files, ``dtype``, ``quantize``, ``revision``."""

    inputs: tuple[Input, ...]
    shards: tuple[tuple[int, int, int], ...]
    """Input (or label), first and last cell (exclusive) of each shard."""

    batch_size: int
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages that change results."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    """Input that was refused → why."""

    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Argument → ``path`` and ``sha256`` of a file or folder that it names."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", _hash(self.content()))

    id: str = field(init=False, default="")
    """Hash of the content without places of files: equal plans have equal results."""

    def content(self) -> dict[str, Any]:
        """The plan as plain values of JSON."""
        values = asdict(self)
        values.pop("id", None)
        plain: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **values}, sort_keys=True))
        return plain

    @property
    def n_cells(self) -> int:
        """Cells of all shards."""
        return sum(stop - first for _, first, stop in self.shards)

    def write(self, folder: Path) -> None:
        """Write the plan into its folder.

        Raises
        ------
        ValueError
            The folder has another plan; names what differs.
        """
        file = folder / PLAN_FILE
        if file.exists():
            refuse_other(Plan.read(folder), self, folder)
            return
        with complete_file(file) as temporary:
            text = json.dumps({**self.content(), "id": self.id}, indent=1, sort_keys=True, ensure_ascii=True)
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: str | Path) -> Plan:
        """The plan of a folder.

        Raises
        ------
        FileNotFoundError
            There is none.
        ValueError
            The file is damaged, was changed, or is of another version.
        """
        file = Path(folder) / PLAN_FILE
        if not file.is_file():
            raise FileNotFoundError(f"there is no {file}: make a plan first (cell2sen plan)")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            found = values.pop("id")
            version = values.pop("format")
            if version != FORMAT:
                raise ValueError(f"it has format {version}, and this version reads {FORMAT}")
            inputs = tuple(
                Input(**{
                    **each,
                    "organisms": tuple(each["organisms"]),
                    "perturbations": tuple((value, name) for value, name in each["perturbations"]),
                })
                for each in values.pop("inputs")
            )  # fmt: skip
            shards = tuple((int(a), int(b), int(c)) for a, b, c in values.pop("shards"))
            plan = cls(**values, inputs=inputs, shards=shards)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is no plan that can be read ({error}); make it again in a new folder") from error
        if plan.id != found:
            raise ValueError(
                f"{file} was changed after it was written (its content has the hash {plan.id[:12]}, not {found[:12]}): "
                "make the plan again in a new folder"
            )
        return plan


def refuse_other(found: Plan, wanted: Plan, folder: Path) -> None:
    """Raise a ValueError that names what differs, unless both plans are the same."""
    if found.id == wanted.id:
        return
    lines = list(_differences(_without_places(found.content()), _without_places(wanted.content())))
    more = f" and {len(lines) - 6} more" if len(lines) > 6 else ""
    raise ValueError(f"{folder} has another plan: {'; '.join(lines[:6])}{more}. Choose another folder, or remove it")


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            yield from _differences(found.get(key), wanted.get(key), f"{name}.{key}" if name else str(key))
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for number, (before, after) in enumerate(zip(found, wanted, strict=True)):
            yield from _differences(before, after, f"{name}[{number}]")
    elif found != wanted:
        yield f"{name} is {_short(found)}, not {_short(wanted)}"


def _short(value: Any) -> str:
    text = f"{len(value)} entries" if isinstance(value, list) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _without_places(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _without_places(value) for key, value in values.items() if key not in _PLACES}
    return [_without_places(value) for value in values] if isinstance(values, list) else values


def _hash(content: dict[str, Any]) -> str:
    text = json.dumps(_without_places(copy.deepcopy(content)), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
