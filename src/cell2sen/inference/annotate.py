"""Annotation: label probabilities of cells and samples; default labels, spellings."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from cell2sen.backend import Backend
from cell2sen.data.names.labels import normalise_label
from cell2sen.data.names.text import as_texts, is_list, list_of_names
from cell2sen.data.obs import contexts
from cell2sen.inference.session import Session
from cell2sen.inference.trained import trained_names, warn_unknown
from cell2sen.model import Model
from cell2sen.prompt import Prompt
from cell2sen.sentences.samples import split_into_samples
from cell2sen.task import Task, Template

#: Training cells that a label needs to be among the default labels: nothing is learned from one or two.
MIN_TRAINING_CELLS = 3

#: Held-out cells below which a temperature is used, but its probabilities are not called calibrated.
MIN_CALIBRATION_CELLS = 50

#: Limits of the search of a temperature; one at a limit is no fit.
TEMPERATURE_LIMITS = (0.1, 20.0)

#: Nats below the likeliest answer, after the temperature, from which an upper bound of a label's likelihood is enough:
#: with it, too, the probability is below exp(-10) = 5e-5. Probabilities of the embedded model, of all labels, were
#: compared with exact ones and differ by less than 1e-4.
NEGLIGIBLE = 10.0

#: Target of a task → key of its training labels in a model's metadata, where that is not the target itself.
LABEL_KEYS = {"cell_type": "labels", "perturbation": "perturbations"}


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelProbabilities:
    """Probabilities over a closed set of labels."""

    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]
    """float64 (n, labels), rows sum to 1; NaN for cells without genes and cells in no sample."""

    temperature: float
    """Divisor of the log-likelihoods, fitted on held-out cells; 1 for models without calibration."""

    calibrated: bool
    """Whether the temperature was fitted (:func:`is_calibration`)."""

    assigned: NDArray[np.int64] | None = None
    """Label of each cell, int64 (n,), where it is not the most probable one; -1 for cells without a label."""

    def pick(self, threshold: float = 0.0, abstain: str = "unknown") -> tuple[list[str], NDArray[np.float64]]:
        """Most probable (or assigned) label of each cell and its probability, float64 (n,).

        The label is `abstain` below `threshold`, and for cells with NaN probabilities, whose probability becomes 0.
        """
        filled = np.nan_to_num(self.probabilities)
        best = filled.argmax(axis=1) if self.assigned is None else self.assigned
        scores = np.take_along_axis(filled, best[:, None], axis=1)[:, 0]
        picked = [
            self.labels[label] if score >= threshold and score > 0 else abstain
            for label, score in zip(best, scores, strict=True)
        ]
        return picked, scores


@dataclass(frozen=True, kw_only=True, eq=False)
class ClosedSet:
    """Answers of one task to choose from."""

    task: Task
    labels: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    """Written answers that each label stands for (:func:`trained_labels`)."""

    @property
    def written(self) -> list[str]:
        """All written answers, each once."""
        return list(dict.fromkeys(name for names in self.groups for name in names))

    @property
    def answers(self) -> list[str]:
        """Text of the template's answer for each of :attr:`written`."""
        assert self.task.target is not None
        slots: list[dict[str, Any]] = [{self.task.target: name} for name in self.written]
        return [self.task.complete(**values) for values in slots]

    @property
    def places(self) -> list[list[int]]:
        """Of each label, the places in :attr:`written` of the answers that it stands for."""
        column = {name: number for number, name in enumerate(self.written)}
        return [[column[name] for name in names] for names in self.groups]

    def pooled(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-likelihood of each label, float64 (n, labels), from those of :attr:`written`."""
        return pool_scores(scores, self.places)


def closed_set(task: Task, model: Model, labels: Sequence[str] | None = None) -> ClosedSet:
    """Labels of a task, by default those that the model was trained on, with a warning of unknown ones.

    Raises
    ------
    ValueError
        Fewer than two labels, two that mean the same, or a task whose answer is no label.
    """
    if task.answer in ("none", "text", "genes", "sentences"):
        raise ValueError(f"task {task.name!r} does not choose among labels, its answer is of the kind {task.answer!r}")
    kind = kind_of(task)
    labels = check_labels(default_labels(model, kind) if labels is None else labels)
    spellings = {} if task.column else model.metadata.get("spellings") or {}
    groups = trained_labels(labels, tuple(trained_names(model, kind)), spellings)
    warn_unknown(kind, [name for names in groups for name in names], model)
    return ClosedSet(task=task, labels=labels, groups=tuple(groups))


def kind_of(task: Task) -> str:
    """Kind of the names that a task answers with, see :func:`cell2sen.inference.trained.trained_names`."""
    return task.name if task.column else LABEL_KEYS.get(str(task.target), str(task.target))


def label_probabilities(
    session: Session, labels: Sequence[str] | None = None, samples: Sequence[NDArray[np.int64]] | None = None
) -> LabelProbabilities:
    """Probability of each label for each cell: softmax over labels of log-likelihood / temperature.

    The likelihood is that of the whole answer with its final full stop, so that a label that begins another one ("B
    cell", "B cell precursor") does not get the longer one's share. A label's likelihood is the sum over the trained
    labels that it stands for (:func:`trained_labels`).

    Parameters
    ----------
    labels
        Closed set of the task's answers, such as cell types; by default those that the model was trained on.
    samples
        Rows of each sample, for tasks that read several cells (:func:`samples_of_cells`); the cells of a sample share
        its probabilities.

    Raises
    ------
    ValueError
        Fewer than two labels, or two that mean the same; no samples for a task that reads them.
    """
    return probabilities_of(session, [closed_set(session.task, session.model, labels)], samples)[0]


def probabilities_of(
    session: Session,
    sets: Sequence[ClosedSet],
    samples: Sequence[NDArray[np.int64]] | None = None,
    *,
    exact: bool = False,
) -> list[LabelProbabilities]:
    """Probabilities of the labels of several tasks, as :func:`label_probabilities` computes them for each.

    Prompts that differ in their endings only are read once. If they are longer than the model's context, all have the
    same genes, as many as fit with the longest ending and answer.

    Parameters
    ----------
    exact
        Compute the likelihood of improbable labels, too, not an upper bound (:data:`NEGLIGIBLE`).

    Raises
    ------
    ValueError
        No samples for a task that reads them.
    """
    for chosen in sets:
        if chosen.task.reads_samples and samples is None:
            raise ValueError(
                f"task {chosen.task.name!r} reads samples of cells: name the obs columns that define them "
                "(sample_by=), such as the donor"
            )
    rows = np.flatnonzero(session.sentences.n_genes > 0)[:, None] if samples is None else samples
    results = []
    for chosen, scores in zip(sets, _scores(session, sets, rows, exact), strict=True):
        temperature, calibrated = temperature_of(session.model, chosen.task)
        probabilities = np.full((len(session.sentences), len(chosen.labels)), np.nan)
        for cells, values in zip(rows, softmax(chosen.pooled(scores) / temperature, axis=1), strict=True):
            probabilities[cells] = values
        results.append(
            LabelProbabilities(
                labels=chosen.labels, probabilities=probabilities, temperature=temperature, calibrated=calibrated
            )
        )
    return results


def _scores(session: Session, sets: Sequence[ClosedSet], rows: Any, exact: bool) -> list[NDArray[np.float64]]:
    """Log-likelihood of each written answer of each set, float64 (rows, answers), up to a constant of each row."""
    sessions = [replace(session, task=chosen.task) for chosen in sets]
    same_length = len({each.length for each in sessions}) == 1
    cut = common_beginning([chosen.task for chosen in sets]) if same_length and len(sets) > 1 else None
    if cut is None:
        return [
            each.backend.score(
                each.prompts(rows, length=each.length),
                chosen.answers,
                margin=None if exact else NEGLIGIBLE * temperature_of(each.model, chosen.task)[0],
            )
            for each, chosen in zip(sessions, sets, strict=True)
        ]
    beginning, endings = cut
    task = replace(session.task, name="several", column=None, target=None, templates=(beginning,))
    prompts = replace(session, task=task).prompts(rows, length=sessions[0].length)
    answers = [ending + answer for ending, chosen in zip(endings, sets, strict=True) for answer in chosen.answers]
    scores = session.backend.score(prompts, answers)  # exact: the likeliest one is that of one task only
    return np.split(scores, np.cumsum([len(chosen.answers) for chosen in sets])[:-1], axis=1)


def common_beginning(tasks: Sequence[Task]) -> tuple[Template, list[str]] | None:
    """Beginning that the prompts of tasks share, as a template, and the remaining text of each.

    ``None`` if the endings have slots, so that they are not the same for all cells, or if the beginnings differ.
    """
    templates = [task.templates[0] for task in tasks]
    prompts = [template.prompt for template in templates]
    together = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*prompts, strict=False))
    common = "".join(letters[0] for letters in together)
    at = max(common.rfind(" "), common.rfind("\n"))
    endings = [prompt[at:] for prompt in prompts]
    same_cells = len({template.cell for template in templates}) == 1
    if at < 1 or not same_cells or common[at - 1].isspace() or any("{" in ending for ending in endings):
        return None
    return Template(prompt=common[:at], cell=templates[0].cell), endings


def temperature_of(model: Model, task: Task, part: Task | None = None) -> tuple[float, bool]:
    """Divisor of the log-likelihoods of a task, or of a part of its joint answer, and whether it is to be trusted."""
    calibration = model.metadata.get("calibration", {}).get(calibration_key(task, part or task), {})
    return float(calibration.get("temperature", 1.0)), is_calibration(calibration)


def is_calibration(fit: Mapping[str, Any]) -> bool:
    """Whether a fitted temperature makes probabilities: from enough cells, and not at the limits of its search."""
    low, high = TEMPERATURE_LIMITS
    enough = fit.get("n_cells", MIN_CALIBRATION_CELLS) >= MIN_CALIBRATION_CELLS
    return bool(fit) and enough and 1.05 * low < fit["temperature"] < high / 1.05


def calibration_key(task: Task, part: Task) -> str:
    """Key of a fitted temperature in a model's metadata: the task's name, in a joint answer with the column."""
    return f"{task.name}, {part.column}" if task.parts else task.name


def samples_of_cells(
    session: Session, sample_by: Sequence[str], *, n_cells: int = 10, seed: int = 0
) -> list[NDArray[np.int64]]:
    """Samples of the session's cells, for a task that reads several cells.

    Parameters
    ----------
    sample_by
        obs columns whose values all cells of a sample share (donor, tissue, batch), among the session's `obs_columns`.
        Cells with a missing value or without genes are in no sample; cells of different organisms are not mixed.
    n_cells
        Cells of a sample, within the limits of the task.
    seed
        Seed of the random split (:func:`cell2sen.sentences.samples.split_into_samples`).

    Returns
    -------
    Rows of each sample, int64 (cells,).

    Raises
    ------
    ValueError
        The task reads single cells, or not so many cells; no group is large enough.
    """
    if session.task.cells is None:
        raise ValueError(f"task {session.task.name!r} reads single cells: leave sample_by out")
    fewest, most = session.task.cells
    if not fewest <= n_cells <= most:
        raise ValueError(f"task {session.task.name!r} reads {fewest} to {most} cells, found n_cells={n_cells}")
    sentences = session.sentences
    keys = zip(sentences.organism, contexts(sentences.obs, list(sample_by)), sentences.n_genes > 0, strict=True)
    groups: list[Any] = [
        (organism, *values) if has_genes and None not in values else None for organism, values, has_genes in keys
    ]
    return split_into_samples(groups, sentences.names.tolist(), n_cells=n_cells, min_cells=fewest, seed=seed)


def check_labels(labels: str | Iterable[Any]) -> tuple[str, ...]:
    """Labels of a list, or of one text, separated by semicolons; cleaned as values of obs are.

    Raises
    ------
    ValueError
        Fewer than two labels, the same label twice, or missing values among them.
    """
    given = list_of_names(labels)
    texts = as_texts(given)
    if invalid := [label for label, text in zip(given, texts, strict=True) if text is None or is_list(label)]:
        raise ValueError(f"labels must be names, found missing values or other objects: {invalid[:5]}")
    names = tuple(text for text in texts if text is not None)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"labels must differ, found {repeated[:5]} more than once in {len(names)} labels")
    if len(names) < 2:
        raise ValueError(f"labels must be at least two to choose from, found {list(names)}")
    return names


def default_labels(model: Model, kind: str = "labels") -> tuple[str, ...]:
    """Trained labels with at least :data:`MIN_TRAINING_CELLS` training cells.

    Parameters
    ----------
    kind
        As for :func:`cell2sen.inference.trained.trained_names`.

    Raises
    ------
    ValueError
        The model's metadata have no such label.
    """
    counts = trained_names(model, kind)
    labels = tuple(label for label, count in counts.items() if count >= MIN_TRAINING_CELLS)
    if not labels:
        raise ValueError(f"{model.name} has no list of {kind}: pass the names to choose from as labels=[...]")
    return labels


def trained_labels(
    labels: Sequence[str], trained: Sequence[str], spellings: Mapping[str, Sequence[str]]
) -> list[tuple[str, ...]]:
    """Trained labels that each label stands for; the label itself if there are none.

    ``"CD14+ Mono"`` stands for ``"CD14+ monocyte"``, ``"T cell"`` for ``"CD4 T cell"`` and ``"CD8 T cell"``. If two
    labels could stand for the same trained label, it goes to the label with fewer of them, so that ``"CD8 T cell"``
    beside ``"T cell"`` keeps its cells. Likelihoods of spellings that a model was not trained on are arbitrary.

    Parameters
    ----------
    labels
        Closed set, in any spelling.
    trained
        Labels that the model was trained on.
    spellings
        Trained label → its other spellings and broader names.

    Raises
    ------
    ValueError
        Two labels stand for the same trained labels.
    """
    candidates = [_candidates(label, trained, spellings) for label in labels]
    for number, names in enumerate(candidates):
        same = [labels[other] for other in range(number) if set(candidates[other]) == set(names)]
        if names and same:
            raise ValueError(
                f"{same[0]!r} and {labels[number]!r} mean the same to this model, {names}: keep one of them"
            )
    owner: dict[str, int] = {}
    for number in sorted(range(len(labels)), key=lambda number: (len(candidates[number]), number)):
        for name in candidates[number]:
            owner.setdefault(name, number)
    owned = [tuple(name for name in names if owner[name] == number) for number, names in enumerate(candidates)]
    return [names or (label,) for names, label in zip(owned, labels, strict=True)]


def pool_scores(scores: NDArray[np.float64], groups: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Log of the summed likelihoods of each group of columns, float64 (n, groups)."""
    return np.stack([np.logaddexp.reduce(scores[:, list(group)], axis=1) for group in groups], axis=1)


def _candidates(label: str, trained: Sequence[str], spellings: Mapping[str, Sequence[str]]) -> list[str]:
    """Trained labels with the same normalised spelling, or with this label among their spellings."""
    plain = normalise_label(label)
    exact = [label] if label in trained else [name for name in trained if normalise_label(name) == plain]
    spelled = [name for name in trained if any(normalise_label(other) == plain for other in spellings.get(name, ()))]
    return list(dict.fromkeys([*exact, *spelled]))


def same_labels(
    name: str, labels: Sequence[str], trained: Sequence[str], spellings: Mapping[str, Sequence[str]]
) -> list[str]:
    """Those of `labels` that mean the same as `name`: by spelling, or since they stand for a common trained label.

    Parameters
    ----------
    trained, spellings
        As for :func:`trained_labels`.
    """
    plain, own = normalise_label(name), set(_candidates(name, trained, spellings))
    return [
        label
        for label in labels
        if normalise_label(label) == plain or own & set(_candidates(label, trained, spellings))
    ]


def choose_labels(
    backend: Backend,
    task: Task,
    prompts: Sequence[Prompt],
    labels: Sequence[str],
    *,
    n_cells: int,
    groups: Sequence[Sequence[int]] | None = None,
) -> tuple[list[tuple[str, ...]], NDArray[np.float64]]:
    """Most likely label of each of several cells, chosen cell by cell from a closed set.

    The probabilities of a cell are conditional on the labels that were chosen for the cells before it.

    Parameters
    ----------
    groups
        Numbers of the labels that mean the same: likelihoods are those of whole groups, and the most likely label of
        the most likely group is chosen. ``None``: each label alone.

    Returns
    -------
    For each prompt the chosen label of each cell, and the log-probabilities, float64 (prompts, cells, groups).
    """
    groups = [[number] for number in range(len(labels))] if groups is None else groups
    chosen, scores = choose_in_turn(backend, prompts, task.openings(n_cells), [(labels, groups)] * n_cells)
    return chosen, np.stack(scores, axis=1)


def choose_in_turn(
    backend: Backend,
    prompts: Sequence[Prompt],
    openings: Sequence[str],
    menus: Sequence[tuple[Sequence[str], Sequence[Sequence[int]]]],
) -> tuple[list[tuple[str, ...]], list[NDArray[np.float64]]]:
    """Parts of an answer, each chosen from its own closed set and conditional on the parts before it.

    Parameters
    ----------
    openings
        Text before each part, and after the last one (:meth:`cell2sen.task.Task.openings`).
    menus
        Of each part the written labels, and the numbers of those that mean the same.

    Returns
    -------
    For each prompt the chosen labels, and for each part the log-probabilities, float64 (prompts, groups).
    """
    chosen: list[list[str]] = [[] for _ in prompts]
    scores = []
    for (labels, groups), opening, following in zip(menus, openings[:-1], openings[1:], strict=True):
        closing = following.partition("\n")[0].rstrip()
        prompts = [prompt.extended(opening.rstrip()) for prompt in prompts]
        answers = [f"{opening[len(opening.rstrip()) :]}{label}{closing}" for label in labels]
        single = backend.score(prompts, answers)
        pooled = pool_scores(single, groups)
        scores.append(log_softmax(pooled, axis=1))
        best = [
            max(groups[place], key=row.__getitem__) for place, row in zip(pooled.argmax(axis=1), single, strict=True)
        ]
        for place, label in enumerate(best):
            chosen[place].append(labels[label])
        prompts = [
            prompt.extended(opening[len(opening.rstrip()) :] + labels[label])
            for prompt, label in zip(prompts, best, strict=True)
        ]
    return [tuple(names) for names in chosen], scores
