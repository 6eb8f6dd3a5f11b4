"""Responses of the training cells, measured and as the model expects them, written into a model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.backend import Unsupported
from cell2sen.data.progress import counted
from cell2sen.data.scale.units import COUNTS
from cell2sen.data.similar_contexts import KnownChanges, Transfer, correlations, fit_transfer
from cell2sen.inference.options import Options
from cell2sen.inference.responses.expected_response import expected_response
from cell2sen.inference.responses.known_responses import RESPONSE_FILE, KnownResponse, KnownResponses
from cell2sen.inference.session import load_model, start
from cell2sen.model import resolve
from cell2sen.training.examples.cells import MIN_GROUP_CELLS, TrainingCells
from cell2sen.training.release.directory import update_metadata
from cell2sen.training.release.fold_changes import abundance, log_folds, shrunken

logger = logging.getLogger(__name__)

#: Maximum number of groups (perturbation and context) of a file; those with the most perturbed cells are used.
MAX_GROUPS = 200

#: Number of control cells of a file that stand for its contexts, spread over its groups; limits of each group.
CONTROL_CELLS, CONTROL_CELLS_OF_GROUP = 320, (8, 40)

#: Smaller changes, in ln(1 + CP10k), are set to 0: thousands of genes have them, with no effect together.
MIN_CHANGE_LN = 5e-3

#: Counts of a cell where files have logarithms, from which they do not follow.
DEPTH = 2000.0

#: Percentile of the training cells' likeness with other contexts below which a cell is unlike them.
UNLIKE_PERCENTILE = 5


class Group(NamedTuple):
    """Training cells of one perturbation in one context."""

    perturbation: str
    context: str
    control: list[int]
    treated: list[int]


def fit_responses(
    folder: Path, cells: Sequence[TrainingCells], *, seed: int = 0, progress: bool = False
) -> dict[str, Any]:
    """Measure the responses of the training cells, and write them into the model's directory.

    A context (cell type, donor, …) has :data:`~cell2sen.training.examples.cells.MIN_GROUP_CELLS` perturbed training
    cells and as many controls. The rule by which responses of other cells follow is chosen by leaving out each context
    of the file (:func:`~cell2sen.data.similar_contexts.fit_transfer`). Held-out cells are not used.

    The model's own prediction takes part with a share that the training file sets (``perturbation.model_share``): in
    contexts that it was trained on its predictions are better than elsewhere, so the share cannot be fitted on them.

    Returns
    -------
    For each perturbation ``contexts`` (name → perturbed cells), ``organisms``, ``file``, ``temperature`` and
    ``model_share``, as in the model's metadata.
    """
    (folder / RESPONSE_FILE).unlink(missing_ok=True)
    update_metadata(folder, {}, remove=["responses"])
    fits: dict[str, tuple[TrainingCells, KnownResponse]] = {}
    backend: Any = None
    for file in cells:
        if "perturb" not in file.data.tasks or file.perturbation is None or file.data.perturbation is None:
            continue
        groups = sorted(_groups(file), key=lambda group: -len(group.treated))[:MAX_GROUPS]
        new = [group for group in groups if group.perturbation not in fits]  # not from an earlier file
        measured = _measured(file, new, seed)
        folds = _folds(file, new)
        rule = fit_transfer(list(measured.values()))
        share = file.data.perturbation.model_share
        for name in counted(list(measured), "responses", "perturbation", show=progress):
            own = [group for group in new if group.perturbation == name]
            fit = replace(_known(own, measured[name], rule), abundances=folds[name][0], log_folds=folds[name][1])
            if share:
                backend = backend or load_model({"model": resolve(folder), "progress": False})
                try:
                    fit = replace(fit, expected=_expected(file, own, backend, seed), model_share=share)
                except (ValueError, KeyError, Unsupported) as error:  # a finished training must not be lost for it
                    logger.warning("responses to %s of %s are without the model: %s", name, file.data.file, error)
            fits[name] = (file, fit)
    if not fits:
        return {}
    _write(folder, fits)
    summary = {
        name: {
            "contexts": dict(zip(fit.contexts, map(int, fit.known.n_cells), strict=True)),
            "organisms": sorted(set(map(str, file.organism))),
            "file": file.data.file,
            "temperature": fit.rule.temperature if np.isfinite(fit.rule.temperature) else None,
            "model_share": fit.model_share,
        }
        for name, (file, fit) in fits.items()
    }
    update_metadata(folder, {"responses": summary})
    return summary


def _write(folder: Path, fits: Mapping[str, tuple[TrainingCells, KnownResponse]]) -> None:
    genes = list(dict.fromkeys(symbol for file, _ in fits.values() for symbol in file.symbols))
    place = {gene: number for number, gene in enumerate(genes)}
    responses = {}
    for name, (file, fit) in fits.items():
        columns = [place[symbol] for symbol in file.symbols]

        def spread(values: NDArray[np.float64], columns: list[int] = columns) -> NDArray[np.float64]:
            whole = np.zeros((len(values), len(genes)))
            whole[:, columns] = values
            return whole

        known = replace(fit.known, controls=spread(fit.known.controls), changes=spread(fit.known.changes), cells=None)
        responses[name] = replace(
            fit,
            known=known,
            expected=spread(fit.expected),
            abundances=None if fit.abundances is None else spread(fit.abundances),
            log_folds=None if fit.log_folds is None else spread(fit.log_folds),
        )
    KnownResponses(genes=tuple(genes), responses=responses).write(folder / RESPONSE_FILE)


def _groups(cells: TrainingCells) -> Iterator[Group]:
    """Groups of training cells with enough perturbed cells and controls."""
    rows = np.flatnonzero(~cells.test & (np.diff(cells.matrix.indptr) > 0))
    for context, sides in cells.groups(rows).items():
        control = sides.pop(cells.data.control, [])
        for name, treated in sorted(sides.items()):
            if min(len(control), len(treated)) >= MIN_GROUP_CELLS:
                yield Group(name, ", ".join(context) or "all cells", control, treated)


def _measured(cells: TrainingCells, groups: Sequence[Group], seed: int) -> dict[str, KnownChanges]:
    """Measured changes of each perturbation, with control cells of each context."""
    generator = np.random.default_rng(seed)
    n_control = int(np.clip(CONTROL_CELLS // max(1, len(groups)), *CONTROL_CELLS_OF_GROUP))
    of_context: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for group in groups:
        if group.context not in of_context:
            some = np.sort(generator.permutation(group.control)[:n_control])
            of_context[group.context] = (cells.mean_expression(group.control), _expression(cells, some))
    measured = {}
    for name in dict.fromkeys(group.perturbation for group in groups):
        own = [group for group in groups if group.perturbation == name]
        controls = np.array([of_context[group.context][0] for group in own])
        changes = np.array([cells.mean_expression(group.treated) for group in own]) - controls
        measured[name] = KnownChanges(
            controls=controls,
            changes=np.where(np.abs(changes) < MIN_CHANGE_LN, 0.0, changes),
            n_cells=[len(group.treated) for group in own],
            cells=[of_context[group.context][1] for group in own],
        )
    return measured


def _folds(cells: TrainingCells, groups: Sequence[Group]) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Perturbation → mean abundance of the controls and its log fold change without noise, (contexts, genes) both."""
    of_context: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for group in groups:
        if group.context not in of_context:
            of_context[group.context] = _abundance(cells, group.control)
    result = {}
    for name in dict.fromkeys(group.perturbation for group in groups):
        own = [group for group in groups if group.perturbation == name]
        noisy = [log_folds(_abundance(cells, group.treated), of_context[group.context]) for group in own]
        folds = shrunken(np.array([fold for fold, _ in noisy]), np.array([variance for _, variance in noisy]))
        result[name] = np.array([of_context[group.context][0] for group in own]), folds
    return result


def _abundance(cells: TrainingCells, rows: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    cp10k = cells.scale.ln_cp10k(sp.csr_matrix(cells.matrix[rows]), cells.totals[rows]).astype(np.float64)
    cp10k.data = np.expm1(cp10k.data)
    return abundance(cp10k, DEPTH if cells.scale != COUNTS else float(np.mean(cells.totals[rows])))


def _expression(cells: TrainingCells, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Expression of some cells, ln(1 + CP10k), float64 (cells, genes)."""
    return cells.scale.ln_cp10k(sp.csr_matrix(cells.matrix[rows]), cells.totals[rows]).toarray().astype(np.float64)


def _known(groups: Sequence[Group], measured: KnownChanges, rule: Transfer) -> KnownResponse:
    """Response of one perturbation, without the model."""
    likeness = []
    for number, some in enumerate(measured.cells or ()):
        others = np.arange(len(measured)) != number if len(measured) > 1 else np.ones(1, dtype=bool)
        likeness.append(correlations(some, measured.controls[others]).max(axis=1))
    return KnownResponse(
        contexts=tuple(group.context for group in groups),
        known=measured,
        expected=np.zeros_like(measured.changes),
        rule=rule,
        usual_likeness=float(np.percentile(np.concatenate(likeness), UNLIKE_PERCENTILE)),
    )


def _expected(cells: TrainingCells, groups: Sequence[Group], backend: Any, seed: int) -> NDArray[np.float64]:
    """Mean change that the model expects in each group, ln(1 + CP10k), float64 (groups, genes)."""
    generator = np.random.default_rng(seed)
    n_control = int(np.clip(CONTROL_CELLS // len(groups), *CONTROL_CELLS_OF_GROUP))
    sampled = [np.sort(generator.permutation(group.control)[:n_control]) for group in groups]
    adata = cells.anndata(np.concatenate(sampled))
    adata.obs_names_make_unique()
    options: Options = {"model": backend, "progress": False, "scale": "log1p"}
    if names := list(cells.prompt_context.names):
        options["context"] = names
    session = start(adata, "perturb", options)
    slots = [{"perturbation": groups[0].perturbation}] * adata.n_obs
    response = expected_response(session, slots, seed=seed, measured=False)
    change = sp.csr_matrix(response.predicted - response.control)
    place = {symbol: number for number, symbol in enumerate(cells.symbols)}
    columns = [place[symbol] for symbol in session.sentences.symbols]
    group_of_row = np.repeat(np.arange(len(sampled)), [len(rows) for rows in sampled])[response.rows]
    expected = np.zeros((len(groups), len(cells.symbols)))
    for number in range(len(groups)):
        expected[number, columns] = np.asarray(change[np.flatnonzero(group_of_row == number)].mean(axis=0)).ravel()
    return expected
