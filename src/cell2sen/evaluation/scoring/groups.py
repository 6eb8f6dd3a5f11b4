"""Groups of cells (a perturbation in a context, or a label) with their controls."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock, RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.names.perturbations import (
    CONTROL,
    control_names,
    loosely_equal,
    named_controls,
    no_controls,
    same_combinations,
)
from cell2sen.data.names.text import as_text
from cell2sen.evaluation.inputs import Cells, Sides, group_name, group_rows, refuse_empty, some_of
from cell2sen.evaluation.metrics import Missing
from cell2sen.evaluation.scoring import bootstrap
from cell2sen.evaluation.scoring.round_trip import RoundTrip, round_trip_of
from cell2sen.evaluation.settings import Columns, Sampling, Settings, as_list

Key = tuple[str, ...]
"""Values that name a group, (perturbation, context, …) or (label, …); or a context, (value, …)."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """Cells of one side by group, and its control cells by context."""

    cells: Cells
    groups: Mapping[Key, Rows]
    controls: Mapping[Key, Rows] = field(default_factory=dict)
    """Context → rows. For generated cells one context, (), with all real cells."""

    @cached_property
    def grouped(self) -> Rows:
        """Rows of all groups, one group after the other."""
        return np.concatenate(list(self.groups.values()))


class Recent:
    """The values used last, as long as they fit into `max_bytes`."""

    def __init__(self, max_bytes: int = 2**28) -> None:
        self.max_bytes = max_bytes
        self._values: OrderedDict[Any, tuple[Any, int]] = OrderedDict()  # the one used last is the last
        self._lock = Lock()

    def get(self, name: Any) -> Any:
        """The value of that name, or None."""
        with self._lock:
            if name not in self._values:
                return None
            self._values.move_to_end(name)
            return self._values[name][0]

    def add(self, name: Any, value: Any, size: int) -> None:
        """Keep a value of `size` bytes instead of those that were not used for longest."""
        with self._lock:
            self._values[name] = value, size
            while sum(kept for _, kept in self._values.values()) > self.max_bytes:
                self._values.popitem(last=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Groups:
    """Groups of all sides, scored in threads. Draws depend on the seed and on the names of cells, not on any order."""

    predicted: Population
    real: Population
    train: Population | None
    with_controls: bool
    """Whether groups are perturbations with control cells. Else they are labels, compared with all real cells."""

    sampling: Sampling
    notes: tuple[str, ...] = ()
    """Names that were read as others, and cells in no group."""

    recent: Recent = field(default_factory=lambda: Recent())
    """Mean profiles with their bootstrap samples."""

    _computed: dict[Any, Any] = field(default_factory=dict)
    _lock: Any = field(default_factory=RLock)

    @cached_property
    def keys(self) -> list[Key]:
        """Scored groups: those that both sides have."""
        return [key for key in self.predicted.groups if key in self.real.groups]

    def context(self, key: Key) -> Key:
        """Values of a group that its controls have, too."""
        return key[1:] if self.with_controls else ()

    def generator(self, *names: Any) -> np.random.Generator:
        """Random generator of a purpose."""
        return bootstrap.generator(self.sampling.seed, *names)

    @cached_property
    def halves(self) -> dict[Key, tuple[Rows, Rows]]:
        """Two random halves of each group of real cells."""
        return {key: self._halves(rows, "truth", key) for key, rows in self.real.groups.items()}

    @cached_property
    def control_halves(self) -> dict[Key, tuple[Rows, Rows]]:
        """Two random halves of each context's control cells."""
        return {key: self._halves(rows, "control", key) for key, rows in self.real.controls.items()}

    @cached_property
    def source_halves(self) -> Rows:
        """Half of the controls that each predicted cell was made from, by its name, int64 (cells,); -1 if unknown."""
        half: dict[Any, int] = {}
        for parts in self.control_halves.values():
            for at, rows in enumerate(parts):
                half.update(dict.fromkeys(self.real.cells.names[rows], at))
        return np.array([half.get(name, -1) for name in self.predicted.cells.names], dtype=np.int64)

    @cached_property
    def round_trip(self) -> RoundTrip | None:
        """Round trip through sentences like the predicted ones; None for predictions without sentences."""
        return round_trip_of(self.predicted.cells)

    def once(self, name: Any, compute: Callable[[], Any]) -> Any:
        """What `compute` returns (a mean, what a baseline has learned), computed once for each name."""
        with self._lock:
            if name not in self._computed:
                self._computed[name] = compute()
            return self._computed[name]

    def partner(self, key: Key) -> Key:
        """The group that exchanges its prediction with this one."""
        partner = self._partners.get(key, key)
        if partner == key:
            raise Missing("there is only one group, so there is none to exchange with")
        return partner

    def controls(self, context: Key) -> Rows:
        """Control cells of a context; Missing if there are none."""
        if context not in self.real.controls:
            raise Missing(f"no control cells in {group_name(context) or 'the data'}")
        return self.real.controls[context]

    def true_change(self, key: Key) -> NDArray[np.float64]:
        """Mean change of a real group from all its controls, float64 (genes,)."""
        return self.mean(self.real, key) - self.control_mean(self.real, self.context(key))

    def mean(self, side: Population, key: Key) -> NDArray[np.float64]:
        """Mean expression of all cells of a group, float64 (genes,)."""
        return self._mean(side, side.groups[key], key)

    def control_mean(self, side: Population, context: Key) -> NDArray[np.float64]:
        """Mean expression of all control cells of a context, float64 (genes,)."""
        rows = self.controls(context) if side is self.real else side.controls[context]
        return self._mean(side, rows, "control", context)

    @property
    def source(self) -> Population:
        """Cells that baselines learn from: the training cells, else the real ones."""
        return self.real if self.train is None else self.train

    def donors(self, key: Key) -> list[Key]:
        """Groups of :attr:`source` that a baseline may learn from; of the real cells all but the scored group.

        The first that exist of: the same group (of training cells only), the same perturbation in other contexts,
        other perturbations in the same context, all groups.

        Raises
        ------
        Missing
            There is no such group.
        """
        pool = [other for other in self.source.groups if self.train is not None or other != key]
        same = [other for other in pool if other == key]
        alike = [other for other in pool if other[0] == key[0]]
        near = [other for other in pool if self.context(other) == self.context(key)]
        for candidates in (same, alike, near, pool):
            if usable := [other for other in candidates if self.context(other) in self.source.controls]:
                return usable
        raise Missing(
            "there is no other group to learn from; pass train="
            if self.train is None
            else "train= has no group to learn from"
        )

    @cached_property
    def _partners(self) -> dict[Key, Key]:
        return derangement(self.keys, self.context, self.generator("shuffle"))

    def _mean(self, side: Population, rows: Rows, *name: Any) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = self.once(("mean", side.cells.name, *name), lambda: side.cells.mean(rows))
        return mean

    def _halves(self, rows: Rows, purpose: str, key: Key) -> tuple[Rows, Rows]:
        mixed = self.generator("halves", purpose, key).permutation(rows)
        return mixed[: len(rows) // 2], mixed[len(rows) // 2 :]


def derangement(keys: Sequence[Key], context: Callable[[Key], Key], rng: np.random.Generator) -> dict[Key, Key]:
    """Exchange partner of each group: of the same context if there is another one, else any other group."""
    partner: dict[Key, Key] = {}
    by_context: dict[Key, list[Key]] = {}
    for key in keys:
        by_context.setdefault(context(key), []).append(key)
    alone = []
    for together in by_context.values():
        if len(together) > 1:
            mixed = [together[at] for at in rng.permutation(len(together))]
            partner.update(zip(mixed, [*mixed[1:], mixed[0]], strict=True))
        else:
            alone += together
    mixed = [alone[at] for at in rng.permutation(len(alone))]
    if len(mixed) > 1:
        partner.update(zip(mixed, [*mixed[1:], mixed[0]], strict=True))
    elif mixed and len(keys) > 1:
        partner[mixed[0]] = next(key for key in keys if key != mixed[0])
    return partner


def perturbation_groups(sides: Sides, settings: Settings) -> Groups:
    """Groups (perturbation, context, …) of the aligned sides, with the control cells of each context.

    Raises
    ------
    KeyError, ValueError
        No such column, no control cells, no group on both sides.
    """
    columns, predicted = settings.columns, sides.predicted
    names = _Names(columns)
    real = _perturbed(sides.real, columns, names)
    column = columns.predicted_perturbation or ("perturbation" if predicted.verb == "perturb" else columns.perturbation)
    groups = Groups(
        predicted=Population(cells=predicted, groups=_treated(predicted, column, columns, names)),
        real=real,
        train=_perturbed(sides.train, columns, names) if sides.train is not None else None,
        with_controls=True,
        sampling=settings.sampling,
        notes=tuple(names.notes),
    )
    treated = groups.predicted.groups
    refuse_empty(groups.keys, treated, real.groups, "perturbation")
    return groups


def label_groups(sides: Sides, settings: Settings) -> Groups:
    """Groups (label, …) of the aligned sides.

    Raises
    ------
    KeyError, ValueError
        No such column, no group on both sides.
    """
    columns = settings.columns
    named = as_list(columns.label)
    real = group_rows(sides.real, named)
    given = as_list(columns.predicted_label or ())
    predicted = group_rows(sides.predicted, [*given, *named[len(given) :]], columns.rename)
    refuse_empty([key for key in predicted if key in real], predicted, real, "label")
    return Groups(
        predicted=Population(cells=sides.predicted, groups=predicted),
        real=Population(
            cells=sides.real, groups=real, controls={(): sides.real.by_name(np.concatenate(list(real.values())))}
        ),
        train=Population(cells=sides.train, groups=group_rows(sides.train, named)) if sides.train is not None else None,
        with_controls=False,
        sampling=settings.sampling,
    )


def share_of_true_change(groups: Groups, n_genes: int) -> float:
    """Share of the squared true change (all perturbed minus all control cells) that is in the compared genes.

    Parameters
    ----------
    groups
        Perturbations.
    n_genes
        Number of genes of the real cells, compared or not.
    """
    compared, every = groups.real.cells.columns, replace(groups.real.cells, columns=np.arange(n_genes))
    change = every.mean(groups.real.grouped) - every.mean(np.concatenate(list(groups.real.controls.values())))
    total = float(change @ change)
    return float(change[compared] @ change[compared]) / total if total else 1.0


def notes_on(groups: Groups, covered: float | None) -> list[str]:
    """Groups that are on one side only or too small, and a low share of the true change in the compared genes."""
    notes, predicted, real = list(groups.notes), groups.predicted.groups, groups.real.groups
    if lost := [group_name(key) for key in real if key not in predicted]:
        notes.append(
            f"not scored, as they were not predicted: {len(lost)} of {len(real)} real groups ({some_of(lost)})"
        )
    if lost := [group_name(key) for key in predicted if key not in real]:
        notes.append(
            f"not scored, as there are no such real cells: {len(lost)} of {len(predicted)} predicted groups "
            f"({some_of(lost)})"
        )
        alike = loosely_equal(
            dict.fromkeys(key[0] for key in predicted if key not in real),
            dict.fromkeys(key[0] for key in real if key not in predicted),
        )
        if alike and groups.with_controls:
            notes.append(
                "perhaps the same under another spelling, or in another order: "
                + some_of([f"{name!r} (predicted) and {other!r} (real)" for name, other in alike])
                + "; rename= maps the names of the prediction to those of the real cells"
            )
    if covered is not None and covered < 0.9:
        notes.append(
            f"the compared genes hold {covered:.0%} of the squared true change; the rest is in genes that the "
            "prediction does not have"
        )
    needed = 2 * groups.sampling.min_cells
    if few := [f"{group_name(key)}: {len(real[key])}" for key in groups.keys if len(real[key]) < needed]:
        notes.append(
            f"without distances between sets of cells, for fewer than {needed} real cells, two halves of min_cells: "
            f"{some_of(few)}"
        )
    return notes


class _Names:
    """Names of perturbations on all sides: controls, combinations in one order, and notes on them."""

    def __init__(self, columns: Columns) -> None:
        self.given, self.context = control_names(columns.control), as_list(columns.context)
        self.controls = [name or CONTROL for name in self.given]
        self.notes: list[str] = []
        #: Names of the real cells, which the others are compared with.
        self.known: list[str] = []

    def of(self, cells: Cells, column: str, rename: Mapping[str, str] | None = None) -> list[str | None]:
        """Perturbation of each cell; one name for combinations in another order."""
        names = {as_text(name): as_text(other) for name, other in (rename or {}).items()}
        values = [names.get(value, value) for value in named_controls(cells.column(column).tolist(), self.given)]
        columns = {column: values, **{context: cells.column(context).tolist() for context in self.context}}
        for name, some in columns.items():
            if missing := sum(value is None for value in some):
                self.notes.append(f"{missing} {cells.name} cells have no value in obs[{name!r}] and are not scored")
        counts = Counter(value for value in values if value is not None)
        if same := same_combinations(counts, self.known, self.controls):
            pairs = [f"{name!r} is {other!r}" for name, other in same.items()]
            self.notes.append(f"combinations in another order, in the {cells.name} cells: {some_of(pairs)}")
        self.known = self.known or [name for name in counts if name not in same]
        return [same.get(str(value), value) for value in values]


def _treated(cells: Cells, column: str, columns: Columns, names: _Names) -> dict[Key, Rows]:
    """Predicted cells in groups, without controls."""
    values = names.of(cells, column, columns.rename)
    rows = group_rows(cells, [column, *as_list(columns.context)], first=values)
    return {key: some for key, some in rows.items() if key[0] not in names.controls}


def _perturbed(cells: Cells, columns: Columns, names: _Names) -> Population:
    """Perturbed cells in groups, and control cells by context."""
    column, controls = columns.perturbation, names.controls
    values = names.of(cells, column)
    if not set(controls) & set(values):
        raise ValueError(no_controls(column, f"the {cells.name} cells", values, names.given))
    rows = group_rows(cells, [column, *as_list(columns.context)], first=values)
    by_context: dict[Key, list[Rows]] = {}
    for key, some in rows.items():
        if key[0] in controls:
            by_context.setdefault(key[1:], []).append(some)
    perturbed = {key: some for key, some in rows.items() if key[0] not in controls}
    if not perturbed:
        raise ValueError(f"no perturbed cells: obs[{column!r}] of the {cells.name} cells is always {controls}")
    return Population(
        cells=cells,
        groups=perturbed,
        controls={context: cells.by_name(np.concatenate(parts)) for context, parts in by_context.items()},
    )
