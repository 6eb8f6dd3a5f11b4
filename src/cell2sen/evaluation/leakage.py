"""Leak check: copied controls or truth, test cells in the training data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.files.formats import is_binary, locate
from cell2sen.data.files.opening import open_anndata
from cell2sen.data.names.text import decoded
from cell2sen.data.names.text_files import read_first_column, read_text
from cell2sen.data.obs import cell_names
from cell2sen.data.splits import (
    are_counted,
    barcode,
    equal_by_chance,
    equal_to_some_by_chance,
    hashes_of_names,
    sha256_of_names,
)
from cell2sen.evaluation.inputs import BLOCK_CELLS, Cells, Sides
from cell2sen.evaluation.scoring.groups import Groups
from cell2sen.evaluation.settings import Leakage
from cell2sen.model import KNOWN, TRAINED_ON_HASHES, Model, resolve

Status = Literal["passed", "failed", "warning", "not checked"]
_DNA = re.compile(r"[ACGT]{8,}(?:_[ACGT]{8,})*")

#: A predicted cell is a copy of its control if its absolute changes sum to at most this share of the control's values.
MAX_CHANGE_OF_COPY = 0.01
#: Share of predicted cells that are copied controls: a warning above the first, a failure from the second on.
MAX_COPIED_CONTROLS, MIN_COPIED_TO_FAIL = 0.1, 0.9
#: Share of real cells that are controls: any is a warning, more than this a failure.
MAX_CONTROLS_IN_TRUTH = 0.05
#: Share of predicted cells that are copies of real ones, and of test cells with the barcode of a training cell: more
#: than these are a warning.
MAX_COPIED_TRUTH, MAX_SHARED_BARCODES = 0.01, 0.05
#: Size of the predicted change over that of the true change: less is a warning.
MIN_SIZE_RATIO = 0.1


@dataclass(frozen=True, kw_only=True)
class Check:
    """Outcome of one leak check, with its numbers."""

    name: str
    status: Status
    detail: str


class LeakError(ValueError):
    """A leak check failed, so the scores would be misleading. `checks` has the outcomes of all checks."""

    def __init__(self, checks: list[Check]) -> None:
        self.checks = checks
        failed = [f"{check.name}: {check.detail}" for check in checks if check.status == "failed"]
        super().__init__(
            "leak check failed. "
            + "; ".join(failed)
            + ". Correct the inputs, or pass leaks='report' (--allow-leaks) to get scores that are marked as leaked"
        )


def raise_on(checks: list[Check]) -> None:
    """Raise LeakError if a check has failed."""
    if any(check.status == "failed" for check in checks):
        raise LeakError(checks)


def check_cells(groups: Groups, sides: Sides, settings: Leakage) -> list[Check]:
    """Leak checks of predicted cells: copies, origin, and test cells among the training cells."""
    predicted, real = groups.predicted.cells, groups.real.cells
    rows = np.concatenate([groups.predicted.groups[key] for key in groups.keys])
    truth = np.unique(np.concatenate([groups.real.groups[key] for key in groups.keys]))
    hashes = hashes_of(real, truth)
    predicted_hashes = hashes_of(predicted, rows)
    checks = [copied_truth(predicted_hashes, hashes)]
    if groups.with_controls:
        control_hashes = hashes_of(real, np.concatenate(list(groups.real.controls.values())))
        checks = [
            copied_control(predicted, rows, predicted_hashes, control_hashes),
            truth_is_control(hashes, control_hashes),
            made_from_truth(predicted, rows, real, truth),
            *checks,
        ]
    return [*checks, check_training_cells(truth, sides, settings)]


def check_training_cells(rows: NDArray[Any], sides: Sides, settings: Leakage) -> Check:
    """Check :func:`trained_on`, with names and split of the settings, the training cells or the prediction.

    Names that count cells (0, 1, 2, …) prove nothing; expression is compared instead.

    Parameters
    ----------
    rows
        Scored real cells.
    """
    real, train, names = sides.real, sides.train, settings.train_names
    if names is None and train is not None:
        names = train.names
    stored = read_names(names)
    if stored is not None and are_counted(real.names.tolist()) and are_counted(stored):
        if train is None or settings.train_names is not None:
            return _training_check(
                "not checked",
                f"the names of the cells ({real.names[0]}, …) are numbers that count them, so that equal names prove "
                "nothing; pass the training cells as train= to compare their expression",
            )
        return _compared_expression(hashes_of(real, rows), hashes_of(train, np.arange(len(train))))
    if stored is not None and (shared := sorted(set(real.names[rows]) & set(stored))):
        chance = equal_by_chance(set(real.names[rows]), set(stored))
        if len(shared) <= chance + 4 * chance**0.5:
            return _equal_barcodes(shared, rows, chance, real, train if settings.train_names is None else None)
    split = split_of(sides.predicted, settings.split)
    if stored is None and settings.split is None:
        hashes = _hashes_of_known_model(dict(sides.predicted.provenance.get("model", {})))
        if hashes is not None and (check := compared_hashes(real.names[rows].tolist(), hashes)) is not None:
            return check
    return trained_on(real.names[rows], stored, split, len(real), real.names)


def compared_hashes(names: Sequence[str], trained: NDArray[np.uint64]) -> Check | None:
    """Failed check if more names of test cells are among a model's training cells than by chance; else ``None``.

    Parameters
    ----------
    trained
        Hashes of the names of training cells, ascending (:func:`cell2sen.data.splits.hashes_of_names`).
    """
    hashes = hashes_of_names(names)
    n_shared = int(np.isin(hashes, trained, assume_unique=True).sum())
    chance = equal_to_some_by_chance(names, len(trained))
    if n_shared <= chance + 4 * chance**0.5 or are_counted(names):
        return None
    return _training_check(
        "failed",
        f"{n_shared} of {len(hashes)} test cells have the name of one of the {len(trained)} training cells of the "
        "model (hashes of names beside its weights)",
    )


def _equal_barcodes(
    shared: Sequence[str], rows: NDArray[Any], chance: float, real: Cells, train: Cells | None
) -> Check:
    """Check of a few equal names that are barcodes alone, as two experiments have them by chance: by expression."""
    detail = (
        f"{len(shared)} of {len(rows)} test cells have the name of a training cell (for example {shared[0]}); about "
        f"{chance:.0f} equal barcodes are expected by chance in two experiments"
    )
    if train is None:
        return _training_check("warning", f"{detail}; pass the training cells as train= to compare their expression")
    place, place_in_train = ({name: row for row, name in enumerate(cells.names)} for cells in (real, train))
    test = hashes_of(real, np.array([place[name] for name in shared]))
    trained = hashes_of(train, np.array([place_in_train[name] for name in shared]))
    n_same = int(np.sum((test == trained) & (test > 0)))
    return _training_check("failed" if n_same else "passed", f"{detail}; {n_same} of them have the same expression")


def _compared_expression(test: NDArray[np.uint64], trained: NDArray[np.uint64]) -> Check:
    test = test[test > 0]
    n_same = int(np.isin(test, trained).sum())
    detail = f"{n_same} of {len(test)} test cells have the expression of one of {len(trained)} training cells"
    share = n_same / max(1, len(test))
    status: Status = "failed" if share > MAX_COPIED_TRUTH else "warning" if n_same else "passed"
    return _training_check(status, f"{detail} (names only count the cells and were not compared)")


def hashes_of(cells: Cells, rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Hash of each row over the compared genes, uint64 (rows,); 0 for empty cells."""
    parts = [fingerprints(cells.rows(rows[start : start + BLOCK_CELLS])) for start in range(0, len(rows), BLOCK_CELLS)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)


def fingerprints(matrix: sp.csr_matrix, decimals: int = 3) -> NDArray[np.uint64]:
    """Hash of each row of values rounded to `decimals`, uint64 (rows,); equal rows have equal hashes."""
    rng = np.random.default_rng(0)
    keys = rng.integers(1, 2**63, size=matrix.shape[1], dtype=np.uint64)
    matrix = matrix.tocsr()
    whole = np.rint(matrix.data.astype(np.float64) * 10**decimals).astype(np.int64).astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = (whole * np.uint64(0x9E3779B97F4A7C15)) ^ (whole >> np.uint64(7))
        products = np.append(mixed * keys[matrix.indices] * np.sign(whole), np.uint64(0))
        sums = np.cumsum(products, dtype=np.uint64)
        starts, stops = matrix.indptr[:-1], matrix.indptr[1:]
        before = np.where(starts > 0, sums[starts - 1], np.uint64(0))
        return np.where(stops > starts, sums[np.maximum(stops - 1, 0)] - before, np.uint64(0))


def copied_control(
    predicted: Cells, rows: NDArray[Any], hashes: NDArray[np.uint64], control_hashes: NDArray[np.uint64]
) -> Check:
    """Check for predicted cells that equal a real control cell, or their own ``control`` layer if there is one.

    Parameters
    ----------
    hashes, control_hashes
        Of the predicted cells in `rows`, and of the control cells (:func:`hashes_of`).
    """
    copied = np.isin(hashes, control_hashes[control_hashes > 0])
    if "control" in predicted.layers:
        for start in range(0, len(rows), BLOCK_CELLS):
            block = rows[start : start + BLOCK_CELLS]
            before = predicted.rows(block, "control")
            moved = np.asarray(abs(predicted.rows(block) - before).sum(axis=1)).ravel()
            size = np.asarray(abs(before).sum(axis=1)).ravel()
            copied[start : start + BLOCK_CELLS] |= moved <= MAX_CHANGE_OF_COPY * size
    share = float(copied.mean()) if len(rows) else 0.0
    status: Status = "failed" if share >= MIN_COPIED_TO_FAIL else "warning" if share > MAX_COPIED_CONTROLS else "passed"
    return Check(
        name="prediction is not a copied control",
        status=status,
        detail=f"{share:.1%} of {len(rows)} predicted cells are a control cell, unchanged",
    )


def copied_truth(hashes: NDArray[np.uint64], truth_hashes: NDArray[np.uint64]) -> Check:
    """Check for predicted cells that equal a real one: at most a warning, as a perfect prediction is a copy."""
    copied = np.isin(hashes, truth_hashes[truth_hashes > 0])
    share = float(copied.mean()) if len(hashes) else 0.0
    return Check(
        name="prediction is not the truth copied",
        status="warning" if share > MAX_COPIED_TRUTH else "passed",
        detail=f"{share:.1%} of {len(hashes)} predicted cells are a real cell that they are compared with",
    )


def truth_is_control(truth_hashes: NDArray[np.uint64], control_hashes: NDArray[np.uint64]) -> Check:
    """Check for control cells among the truth, by expression."""
    hashes = truth_hashes[truth_hashes > 0]
    share = float(np.isin(hashes, control_hashes).mean()) if len(hashes) else 0.0
    status: Status = "failed" if share > MAX_CONTROLS_IN_TRUTH else "warning" if share > 0 else "passed"
    return Check(
        name="truth holds no control cells",
        status=status,
        detail=f"{share:.1%} of {len(hashes)} real cells of the truth have the expression of a control cell",
    )


def made_from_truth(predicted: Cells, rows: NDArray[Any], real: Cells, truth: NDArray[Any]) -> Check:
    """Check for predictions made from cells of the truth, by names.

    Predictions of this package keep the names of the cells that they were made from. Where names only count cells (0,
    1, 2, …), the expression that a prediction began with is compared, too.
    """
    name = "prediction was not made from the truth"
    place = dict(zip(real.names[truth], truth, strict=True))
    overlap = [cell for cell in predicted.names[rows] if cell in place]
    if overlap and are_counted(predicted.names.tolist()):
        same = _began_with(predicted, [row for row in rows if predicted.names[row] in place], real, place)
        if not same and predicted.provenance.get("readout") != "expected":
            detail = f"the names of the predicted cells ({predicted.names[0]}, …) only count them"
            return Check(name=name, status="not checked", detail=detail)
        overlap = same
    if not overlap:
        return Check(name=name, status="passed", detail="no predicted cell has the name of a cell of the truth")
    n = f"{len(overlap)} of {len(rows)}"
    detail = f"{n} predicted cells have the name of a cell of the truth (for example {overlap[:3]})"
    if predicted.verb == "perturb":
        advice = "they were predicted from perturbed cells; predict from adata[adata.obs[...] == control] only"
        return Check(name=name, status="failed", detail=f"{detail}: {advice}")
    return Check(name=name, status="warning", detail=f"{detail}; this is a leak if they were made from these cells")


def _began_with(predicted: Cells, rows: Sequence[int], real: Cells, place: Mapping[str, int]) -> list[str]:
    """Names of predicted cells whose ``control`` layer is the real cell of the same name."""
    if "control" not in predicted.layers:
        return []
    same: list[str] = []
    for start in range(0, len(rows), BLOCK_CELLS):
        block = np.array(rows[start : start + BLOCK_CELLS])
        before = predicted.rows(block, "control")
        others = real.rows(np.array([place[name] for name in predicted.names[block]]))
        distance = np.asarray(abs(before - others).sum(axis=1)).ravel()
        is_same = distance <= MAX_CHANGE_OF_COPY * np.asarray(abs(others).sum(axis=1)).ravel()
        same += list(predicted.names[block][is_same])
    return same


def trained_on(
    test_names: Iterable[str],
    train_names: Iterable[str] | None,
    split: Mapping[str, Any] | None,
    n_real: int,
    all_names: Iterable[str],
) -> Check:
    """Check for test cells among the training cells.

    By `train_names` if they are known. Else the SHA-256 of held-out names, which models store, can prove that the real
    cells are exactly those; and an equal number of cells suggests that they are the training file (a warning).

    Parameters
    ----------
    test_names
        Names of the scored real cells.
    train_names
        Names of the training cells, None if they are not known.
    split
        File → ``n_train``, ``n_held_out``, ``sha256_of_held_out``.
    n_real, all_names
        Number and names of all real cells.
    """
    test = set(map(str, test_names))
    if train_names is not None:
        return _compared_names(test, set(map(str, train_names)))
    for file, sizes in (split or {}).items():
        held_out = sizes.get("sha256_of_held_out")
        if held_out and held_out in (sha256_of_names(all_names), sha256_of_names(test)):
            return _training_check("passed", f"the real cells are exactly those held out of {file} (SHA-256 of names)")
    for file, sizes in (split or {}).items():
        trained = int(sizes.get("n_train", 0))
        if trained and n_real == trained + int(sizes.get("n_held_out", 0)):
            return _training_check(
                "warning",
                f"the real data have as many cells ({n_real}) as {file}, on {trained} of which the model was trained; "
                "pass train_names= to check the names, and score held-out cells only",
            )
    return _training_check("not checked", "names of training cells are not known; pass train_names=")


def _compared_names(test: set[str], trained: set[str]) -> Check:
    if overlap := sorted(test & trained):
        n = f"{len(overlap)} of {len(test)} test cells are among the {len(trained)} training cells"
        return _training_check("failed", f"{n}, for example {overlap[:3]}")
    barcodes, trained_barcodes = _barcodes(test), _barcodes(trained)
    shared = len(barcodes & trained_barcodes)
    if shared > MAX_SHARED_BARCODES * len(test) + equal_by_chance(barcodes, trained_barcodes):
        n = f"no name is shared, but {shared} of {len(test)} test cells have the barcode of a training cell"
        return _training_check("warning", f"{n} under another suffix: the same cells, if both are of one experiment")
    return _training_check("passed", f"none of {len(test)} test cells is among {len(trained)} training cells")


def _training_check(status: Status, detail: str) -> Check:
    return Check(name="no test cell was trained on", status=status, detail=detail)


def _barcodes(names: set[str]) -> set[str]:
    """Barcodes of the names that begin with one."""
    return {code for name in names if _DNA.fullmatch(code := barcode(name))}


def hardly_moves(ratio: float) -> Check:
    """Check for a small predicted change; `ratio`: its size over that of the true change, averaged over groups."""
    finite = np.isfinite(ratio)
    status: Status = "not checked" if not finite else "warning" if ratio < MIN_SIZE_RATIO else "passed"
    size = f"the predicted change has {ratio:.0%} of the size of the true change"
    detail = size if finite else "no change to compare"
    return Check(name="prediction moves away from the control", status=status, detail=detail)


def read_names(names: Iterable[str] | str | Path | Any | None) -> list[str] | None:
    """Cell names of an iterable, an AnnData object, a text file, a ``.json`` file, or a file of cells.

    Text has one name in a line, or in the first column; JSON is a list, or an object of lists such as file → names.
    """
    if names is None:
        return None
    if hasattr(names, "obs_names"):
        adata: Any = names
        return list(cell_names(adata.obs))
    if not isinstance(names, str | Path):
        return [str(decoded(name)) for name in names]
    path = Path(names)
    try:
        place = locate(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"train_names must be names or a file with names; {error}") from error
    if place.inside or path.is_dir() or is_binary(path):
        with open_anndata(path) as adata:
            return list(cell_names(adata.obs))
    if path.suffix == ".json":
        stored = json.loads(read_text(path))
        lists = stored.values() if isinstance(stored, dict) else [stored]
        return [str(name) for names_of_file in lists for name in names_of_file]
    return read_first_column(path)


def split_of(predicted: Cells, split: Any) -> Mapping[str, Any] | None:
    """Sizes and hashes of held-out cells of each training file: as passed, else from the record of the prediction."""
    if isinstance(split, str | Path):
        split = json.loads(read_text(split))
    if split is not None:
        return dict(split.get("split", split))
    record = predicted.provenance
    model = dict(record.get("model", {}))
    stored = record.get("split") or model.get("split")
    return dict(stored) if stored else _split_of_known_model(model)


def _split_of_known_model(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    model = _known_model(record)
    return model.metadata.get("split") if model else None


def _hashes_of_known_model(record: Mapping[str, Any]) -> NDArray[np.uint64] | None:
    model = _known_model(record)
    file = Path(model.path) / TRAINED_ON_HASHES if model and model.is_local else None
    return np.load(file, allow_pickle=False) if file and file.is_file() else None


def _known_model(record: Mapping[str, Any]) -> Model | None:
    """The model of a record, if it is a known one with the same weights."""
    name, weights = record.get("name"), record.get("weights_sha256")
    if name not in KNOWN or not weights:
        return None
    model = resolve(str(name))
    return model if model.metadata.get("weights_sha256") == weights else None
