"""Fit of corrections on training cells (mean residuals), written into a model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.backend import Unsupported
from cell2sen.data.progress import counted
from cell2sen.inference.corrections import CORRECTION_FILE, Corrections
from cell2sen.inference.expected_response import expected_response
from cell2sen.inference.options import Options
from cell2sen.inference.session import load_model, start
from cell2sen.model import resolve
from cell2sen.training.examples.cells import MIN_GROUP_CELLS, TrainingCells
from cell2sen.training.release.directory import update_metadata

logger = logging.getLogger(__name__)

#: Maximum number of groups (perturbation and context) of a file; those with the most perturbed cells are used.
MAX_GROUPS = 200

#: Number of control cells of a file whose responses are predicted, spread over its groups; limits of each group.
CONTROL_CELLS, CONTROL_CELLS_OF_GROUP = 320, (8, 40)

#: Smaller amounts, in ln(1 + CP10k), are set to 0: thousands of genes have them, with no effect together.
MIN_AMOUNT_LN = 5e-3


class Residual(NamedTuple):
    """Mean residual and mean prediction of a group, ln(1 + CP10k), float64 (genes,)."""

    missed: NDArray[np.float64]
    """Real mean change minus expected mean change."""

    predicted: NDArray[np.float64]
    """Predicted mean expression."""


class Group(NamedTuple):
    """Training cells of one perturbation in one context."""

    perturbation: str
    control: list[int]
    treated: list[int]


class Fit(NamedTuple):
    """Fitted correction of one perturbation."""

    symbols: tuple[str, ...]
    amounts: NDArray[np.float64]
    """As :attr:`Corrections.amounts`, float64 (symbols,)."""

    contexts: int
    """Number of contexts."""

    share: float
    """From :func:`share`."""


def correct(folder: Path, cells: Sequence[TrainingCells], *, seed: int = 0, progress: bool = False) -> dict[str, Any]:
    """Fit corrections of expected responses to the perturbations, and write them into the model's directory.

    The residual of a context (cell type, donor, …) is the real mean change minus the expected one, if it has
    :data:`~cell2sen.training.examples.cells.MIN_GROUP_CELLS` perturbed training cells and as many controls. A
    correction is the mean residual over contexts times its :func:`share`. Held-out cells are not used. Models without a
    name for no perturbation get no corrections.

    Returns
    -------
    For each perturbation ``contexts`` and ``share``, as in the model's metadata.
    """
    (folder / CORRECTION_FILE).unlink(missing_ok=True)
    update_metadata(folder, {}, remove=["corrections"])
    model = resolve(folder)
    if not model.metadata.get("no_perturbation"):
        return {}
    fits: dict[str, Fit] = {}
    backend: Any = None
    for file in cells:
        if "perturb" not in file.data.tasks or file.perturbation is None:
            continue
        groups = sorted(_groups(file), key=lambda group: -len(group.treated))[:MAX_GROUPS]
        n_control = int(np.clip(CONTROL_CELLS // max(1, len(groups)), *CONTROL_CELLS_OF_GROUP))
        names = list(dict.fromkeys(group.perturbation for group in groups))
        for name in counted(names, "corrections", "perturbation", show=progress):
            if name in fits:  # from an earlier file
                continue
            backend = backend or load_model({"model": model, "progress": False})
            own = [group for group in groups if group.perturbation == name]
            try:
                fits[name] = _fitted(file, own, n_control, backend, seed)
            except (ValueError, KeyError, Unsupported) as error:  # a finished training must not be lost for it
                logger.warning("responses to %s of %s are not corrected: %s", name, file.data.file, error)
    if not fits:
        return {}
    _write(folder, fits)
    summary = {name: {"contexts": fit.contexts, "share": round(fit.share, 3)} for name, fit in fits.items()}
    update_metadata(folder, {"corrections": summary})
    return summary


def _write(folder: Path, fits: Mapping[str, Fit]) -> None:
    genes = list(dict.fromkeys(symbol for fit in fits.values() for symbol in fit.symbols))
    place = {gene: number for number, gene in enumerate(genes)}
    amounts = {name: np.zeros(len(genes), dtype=np.float32) for name in fits}
    for name, fit in fits.items():
        amounts[name][[place[symbol] for symbol in fit.symbols]] = fit.amounts
    Corrections(genes=tuple(genes), amounts=amounts).write(folder / CORRECTION_FILE)


def _fitted(cells: TrainingCells, groups: Sequence[Group], n_control: int, backend: Any, seed: int) -> Fit:
    """Correction of one perturbation from its groups."""
    residuals, halves = _residuals(cells, groups, n_control, backend, seed)
    part = share([residual.missed for residual in residuals] if len(residuals) > 1 else halves)
    mean = part * np.mean([residual.missed for residual in residuals], axis=0)
    predicted = np.mean([residual.predicted for residual in residuals], axis=0)
    return Fit(cells.symbols, _amounts(mean, predicted), len(residuals), part)


def share(missed: Sequence[NDArray[np.float64]]) -> float:
    """Shrinkage factor, 0 to 1, of the mean residual over K contexts: least squared error in a further context.

    f = Σ ⟨m_k, m̄_k⟩ / Σ ⟨m̄_k, m̄_k⟩, with m_k the residual of context k and m̄_k the mean of all others, is the factor
    for a mean over K - 1 contexts. A mean over K contexts varies less: K f / (K f + (K - 1) (1 - f)) (Spearman and
    Brown, 1910).
    """
    whole = np.sum(missed, axis=0)
    others = [(whole - residual) / (len(missed) - 1) for residual in missed]
    agreement = sum(float(residual @ other) for residual, other in zip(missed, others, strict=True))
    size = sum(float(other @ other) for other in others)
    factor, n = float(np.clip(agreement / size, 0.0, 1.0)) if size else 0.0, len(missed)
    return n * factor / (n * factor + (n - 1) * (1 - factor))


def _groups(cells: TrainingCells) -> Iterator[Group]:
    """Groups of training cells with enough perturbed cells and controls."""
    rows = np.flatnonzero(~cells.test & (np.diff(cells.matrix.indptr) > 0))
    for sides in cells.groups(rows).values():
        control = sides.pop(cells.data.control, [])
        for name, treated in sorted(sides.items()):
            if min(len(control), len(treated)) >= MIN_GROUP_CELLS:
                yield Group(name, control, treated)


def _residuals(
    cells: TrainingCells, groups: Sequence[Group], n_control: int, backend: Any, seed: int
) -> tuple[list[Residual], list[NDArray[np.float64]]]:
    """Residuals of the groups, and of two halves of the first group, which give the share if it is the only one."""
    generator = np.random.default_rng(seed)
    sampled = [np.sort(generator.permutation(group.control)[:n_control]) for group in groups]
    adata = cells.anndata(np.concatenate(sampled))
    adata.obs_names_make_unique()
    options: Options = {"model": backend, "progress": False, "scale": "log1p"}
    if names := list(cells.prompt_context.names):
        options["context"] = names
    session = start(adata, "perturb", options)
    slots = [{"perturbation": groups[0].perturbation}] * adata.n_obs
    response = expected_response(session, slots, seed=seed, correction=False)
    change = sp.csr_matrix(response.predicted - response.control)
    place = {symbol: number for number, symbol in enumerate(cells.symbols)}
    columns = [place[symbol] for symbol in session.sentences.symbols]
    group_of_row = np.repeat(np.arange(len(sampled)), [len(rows) for rows in sampled])[response.rows]

    def residual(rows: NDArray[Any], control: list[int], treated: list[int]) -> Residual:
        expected = np.zeros(len(cells.symbols))
        expected[columns] = np.asarray(change[rows].mean(axis=0)).ravel()
        before = cells.mean_expression(control)
        return Residual(cells.mean_expression(treated) - before - expected, np.maximum(before + expected, 0.0))

    residuals = [
        residual(np.flatnonzero(group_of_row == number), group.control, group.treated)
        for number, group in enumerate(groups)
    ]
    first, rows = groups[0], np.flatnonzero(group_of_row == 0)
    halves = [residual(rows[half::2], first.control[half::2], first.treated[half::2]).missed for half in (0, 1)]
    return residuals, halves


def _amounts(missed: NDArray[np.float64], predicted: NDArray[np.float64]) -> NDArray[np.float64]:
    """:attr:`Corrections.amounts` of a mean residual and a mean prediction."""
    kept = np.where(np.abs(missed) < MIN_AMOUNT_LN, 0.0, missed)
    falls = np.divide(np.minimum(kept, 0.0), predicted, out=np.zeros_like(kept), where=predicted > 0)
    return np.maximum(kept, 0.0) + np.maximum(falls, -1.0)
