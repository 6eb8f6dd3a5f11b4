"""Corrections of expected responses, fitted on the training cells."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from tqdm import tqdm

from cell2sen.backend import Unsupported
from cell2sen.inference.corrections import CORRECTION_FILE, Corrections
from cell2sen.inference.expected_response import expected_response
from cell2sen.inference.session import load_model, start
from cell2sen.model import METADATA_FILE, resolve
from cell2sen.training.cells import LEAST_CELLS, Cells, contexts

logger = logging.getLogger(__name__)

#: Pairs of a perturbation and a context that are looked at, those with the most cells, and the control cells that are
#: asked about: of a file, spread over these pairs, but no fewer and no more of each than so many.
MOST_PAIRS, CELLS, CELLS_OF_PAIR = 200, 320, (8, 40)

#: Amounts below it, in ln(1 + CP10k), are set to 0: there are thousands, and together they change nothing.
LEAST = 5e-3

#: Two means over the training cells of a context, float64 (genes,): what was missed, and the predicted expression.
Missed = tuple[NDArray[np.float64], NDArray[np.float64]]


def correct(folder: Path, cells: Sequence[Cells], *, seed: int = 0, progress: bool = False) -> dict[str, Any]:
    """Fit corrections of all perturbations that were trained on, and write them into the model's directory.

    In each context (cell type, donor, …) with :data:`cell2sen.training.cells.LEAST_CELLS` training cells on either
    side, what was missed is the true mean change less the expected one. A correction is the mean of it over contexts,
    times the share of it that :func:`share` finds worth adding. Held-out cells are not looked at. Models that have
    learned no name for no perturbation get none.

    Returns
    -------
    For each perturbation ``contexts`` and ``share``, which the model's metadata keep.
    """
    (folder / CORRECTION_FILE).unlink(missing_ok=True)
    file = folder / METADATA_FILE
    metadata = json.loads(file.read_text(encoding="utf-8"))
    metadata.pop("corrections", None)
    file.write_text(json.dumps(metadata, indent=1, ensure_ascii=False), encoding="utf-8")
    model = resolve(folder)
    backend: Any = None
    genes: dict[str, int] = {}
    fitted: dict[str, tuple[tuple[str, ...], NDArray[np.float64]]] = {}
    said: dict[str, Any] = {}
    for one in cells:
        if "perturb" not in one.data.tasks or not model.metadata.get("no_perturbation"):
            continue
        groups = sorted(_groups(one), key=lambda group: -len(group[2]))[:MOST_PAIRS]
        per_context = int(np.clip(CELLS // max(1, len(groups)), *CELLS_OF_PAIR))
        names = list(dict.fromkeys(name for name, _, _ in groups))
        for name in tqdm(names, desc="corrections", unit=" perturbations", disable=not progress):
            if name in fitted:  # learned from two files: the first one counts
                continue
            backend = backend or load_model({"model": model, "progress": False})
            sides = [(control, treated) for other, control, treated in groups if other == name]
            try:
                found = _missed(one, name, sides, per_context, backend, seed)
            except (ValueError, KeyError, Unsupported) as error:  # a model without this correction rather than none
                logger.warning("responses to %s of %s are not corrected: %s", name, one.data.file, error)
                continue
            missed, halves = found
            part = share([what for what, _ in missed] if len(missed) > 1 else halves)
            mean = part * np.mean([what for what, _ in missed], axis=0)
            level = np.mean([predicted for _, predicted in missed], axis=0)
            fitted[name] = one.symbols, _amounts(mean, level)
            said[name] = {"contexts": len(missed), "share": round(part, 3)}
            genes |= dict.fromkeys(one.symbols, 0)
    if not fitted:
        return {}
    place = {gene: number for number, gene in enumerate(genes)}
    amounts = {name: np.zeros(len(genes), dtype=np.float32) for name in fitted}
    for name, (symbols, amount) in fitted.items():
        amounts[name][[place[symbol] for symbol in symbols]] = amount
    Corrections(genes=tuple(genes), amounts=amounts).write(folder / CORRECTION_FILE)
    file.write_text(json.dumps(metadata | {"corrections": said}, indent=1, ensure_ascii=False), encoding="utf-8")
    return said


def share(missed: Sequence[NDArray[np.float64]]) -> float:
    """How much of the mean over K contexts is worth adding in another context, by least squares, from 0 to 1.

    f = Σ ⟨m_k, m̄_k⟩ / Σ ⟨m̄_k, m̄_k⟩, m_k what was missed in context k and m̄_k its mean over all others, is the factor
    that would have left the least error in contexts whose own error had not been known. A mean over K contexts varies
    less than one over K - 1, so the share is K f / (K f + (K - 1) (1 - f)) (Spearman and Brown, 1910).
    """
    whole = np.sum(missed, axis=0)
    others = [(whole - one) / (len(missed) - 1) for one in missed]
    agreeing = sum(float(one @ other) for one, other in zip(missed, others, strict=True))
    size = sum(float(other @ other) for other in others)
    factor, n = float(np.clip(agreeing / size, 0.0, 1.0)) if size else 0.0, len(missed)
    return n * factor / (n * factor + (n - 1) * (1 - factor))


def _groups(cells: Cells) -> Iterator[tuple[str, list[int], list[int]]]:
    """Perturbation, controls and perturbed cells of each context of the training cells that has enough of both."""
    if cells.perturbation is None:
        return
    where = contexts(cells)
    found: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for cell in np.flatnonzero(~cells.test & (np.diff(cells.matrix.indptr) > 0)):
        if cells.perturbation[cell] is not None:
            found.setdefault(where[cell], {}).setdefault(str(cells.perturbation[cell]), []).append(int(cell))
    for sides in found.values():
        control = sides.pop(cells.data.control, [])
        for name, treated in sorted(sides.items()):
            if min(len(control), len(treated)) >= LEAST_CELLS:
                yield name, control, treated


def _missed(
    cells: Cells, name: str, sides: Sequence[tuple[list[int], list[int]]], per_context: int, backend: Any, seed: int
) -> tuple[list[Missed], list[NDArray[np.float64]]]:
    """Of each context; and of two halves of the first one's cells, which :func:`share` takes for want of another."""
    generator = np.random.default_rng(seed)
    asked = [np.sort(generator.permutation(control)[:per_context]) for control, _ in sides]
    adata = cells.anndata(np.concatenate(asked))
    adata.obs_names_make_unique()
    session = start(adata, "perturb", {"model": backend, "progress": False})
    fit = cells.rank_fit()  # not the session's: it has seen the genes that the model knows only
    if fit is None:
        raise ValueError("no cell has two expressed genes")
    slots = [{"perturbation": name}] * adata.n_obs
    found = expected_response(session, slots, fit=fit, seed=seed, correction=False)
    change = sp.csr_matrix(found.predicted - found.control)
    place = {symbol: number for number, symbol in enumerate(cells.symbols)}
    columns = [place[symbol] for symbol in session.sentences.symbols]
    context = np.repeat(np.arange(len(asked)), [len(rows) for rows in asked])[found.rows]

    def missed_of(rows: NDArray[Any], control: list[int], treated: list[int]) -> Missed:
        expected = np.zeros(len(cells.symbols))
        expected[columns] = np.asarray(change[rows].mean(axis=0)).ravel()
        before = cells.mean_expression(control)
        return cells.mean_expression(treated) - before - expected, np.maximum(before + expected, 0.0)

    missed = [missed_of(np.flatnonzero(context == number), *side) for number, side in enumerate(sides)]
    first, (control, treated) = np.flatnonzero(context == 0), sides[0]
    return missed, [missed_of(first[half::2], control[half::2], treated[half::2])[0] for half in (0, 1)]


def _amounts(missed: NDArray[np.float64], level: NDArray[np.float64]) -> NDArray[np.float64]:
    """:attr:`Corrections.amounts` of a mean that was missed, where the mean prediction is `level`."""
    kept = np.where(np.abs(missed) < LEAST, 0.0, missed)
    falls = np.divide(np.minimum(kept, 0.0), level, out=np.zeros_like(kept), where=level > 0)
    return np.maximum(kept, 0.0) + np.maximum(falls, -1.0)
