"""Leaks: copied controls, test cells that were trained on, predictions made from the truth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.splits import barcode, sha256_of_names
from cell2sen.evaluation.inputs import Cells, fingerprints

Status = Literal["passed", "failed", "warning", "not checked"]
_BLOCK = 4096
_DNA = re.compile(r"[ACGT]{8,}")

#: A cell whose values change by less than this share is a copy.
COPIED = 0.01
#: Shares of cells from which a finding is a failure.
MOST_COPIED = 0.9
TRUTH_IS_CONTROL = 0.05


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question, its outcome and what was found."""

    name: str
    status: Status
    detail: str


class LeakError(ValueError):
    """The scores would not mean what they seem to mean. `checks` holds all findings."""

    def __init__(self, checks: list[Check]) -> None:
        self.checks = checks
        failed = [f"{one.name}: {one.detail}" for one in checks if one.status == "failed"]
        super().__init__(
            "leak check failed. "
            + "; ".join(failed)
            + ". Repair the comparison, or pass leaks='report' (--allow-leaks) to see scores that are marked as leaked"
        )


def prints(cells: Cells, rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Fingerprint of each row over the compared genes, uint64 (rows,); 0 for empty cells."""
    parts = [fingerprints(cells.rows(rows[start : start + _BLOCK])) for start in range(0, len(rows), _BLOCK)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)


def copied_control(predicted: Cells, rows: NDArray[Any], control_prints: NDArray[np.uint64]) -> Check:
    """Is the prediction the control copied.

    Compared with the ``control`` layer where there is one, and with all real controls.
    """
    copied = np.isin(prints(predicted, rows), control_prints[control_prints > 0])
    if "control" in predicted.layers:
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            before = predicted.rows(block, "control")
            moved = np.asarray(abs(predicted.rows(block) - before).sum(axis=1)).ravel()
            size = np.asarray(abs(before).sum(axis=1)).ravel()
            copied[start : start + _BLOCK] |= moved <= COPIED * size
    share = float(copied.mean()) if len(rows) else 0.0
    status: Status = "failed" if share >= MOST_COPIED else "warning" if share > 0.1 else "passed"
    return Check(
        name="prediction is not a copied control",
        status=status,
        detail=f"{share:.1%} of {len(rows)} predicted cells are a control cell, unchanged",
    )


def copied_truth(predicted: Cells, rows: NDArray[Any], truth_prints: NDArray[np.uint64]) -> Check:
    """Is the prediction the truth? A perfect score is then no news. Never raises."""
    share = float(np.isin(prints(predicted, rows), truth_prints[truth_prints > 0]).mean()) if len(rows) else 0.0
    return Check(
        name="prediction is not the truth copied",
        status="warning" if share > 0.01 else "passed",
        detail=f"{share:.1%} of {len(rows)} predicted cells are a real cell that they are compared with",
    )


def truth_is_control(truth_prints: NDArray[np.uint64], control_prints: NDArray[np.uint64]) -> Check:
    """Are control cells among the truth."""
    known = truth_prints[truth_prints > 0]
    share = float(np.isin(known, control_prints).mean()) if len(known) else 0.0
    status: Status = "failed" if share > TRUTH_IS_CONTROL else "warning" if share > 0 else "passed"
    return Check(
        name="truth holds no control cells",
        status=status,
        detail=f"{share:.1%} of {len(known)} real cells of the truth have the expression of a control cell",
    )


def made_from_truth(predicted: Cells, rows: NDArray[Any], truth_names: set[str]) -> Check:
    """Were the predictions made from cells that are the truth.

    Known for predictions of this package, which keep the names of the cells that they were made from.
    """
    name = "prediction was not made from the truth"
    overlap = [one for one in predicted.names[rows] if one in truth_names]
    if not overlap:
        return Check(name=name, status="passed", detail="no predicted cell bears the name of a cell of the truth")
    found = (
        f"{len(overlap)} of {len(rows)} predicted cells bear names of cells of the truth (for example {overlap[:3]})"
    )
    if predicted.verb == "perturb":
        return Check(
            name=name,
            status="failed",
            detail=found
            + ": they were predicted from perturbed cells; predict from adata[adata.obs[...] == control] only",
        )
    return Check(name=name, status="warning", detail=found + "; this is a leak if they were made from these cells")


def trained_on(
    test_names: Iterable[str],
    train_names: Iterable[str] | None,
    split: Mapping[str, Any] | None,
    n_real: int,
    all_names: Iterable[str],
) -> Check:
    """Is a test cell in the training split.

    Compares names with `train_names` where they are given. Else the SHA-256 of held-out names that models carry can
    prove that the real cells are exactly those, and the number of cells can raise the suspicion that they are the
    training file.
    """
    test = set(map(str, test_names))

    def found(status: Status, detail: str) -> Check:
        return Check(name="no test cell was trained on", status=status, detail=detail)

    if train_names is not None:
        known = set(map(str, train_names))
        if overlap := sorted(test & known):
            n = f"{len(overlap)} of {len(test)} test cells are among the {len(known)} training cells"
            return found("failed", f"{n}, for example {overlap[:3]}")
        shared = len(_barcodes(test) & _barcodes(known))
        if shared > 0.05 * len(test):
            n = f"no name is shared, but {shared} of {len(test)} test cells have the barcode of a training cell"
            return found("warning", f"{n} under another suffix: the same cells, if both are of one experiment")
        return found("passed", f"none of {len(test)} test cells is among {len(known)} training cells")
    for file, one in (split or {}).items():
        held_out = one.get("sha256_of_held_out")
        if held_out and held_out in (sha256_of_names(all_names), sha256_of_names(test)):
            return found("passed", f"the real cells are exactly those held out of {file} (SHA-256 of names)")
    for file, one in (split or {}).items():
        trained = int(one.get("n_train", 0))
        if trained and n_real == trained + int(one.get("n_held_out", 0)):
            n = f"the real data have as many cells ({n_real}) as {file}, on {trained} of which the model was trained"
            return found("warning", f"{n}; pass train_names= to know, and score held-out cells only")
    return found("not checked", "names of training cells are not known; pass train_names=")


def _barcodes(names: set[str]) -> set[str]:
    """Barcodes of the names that begin with one."""
    return {found for name in names if _DNA.fullmatch(found := barcode(name))}


def hardly_moves(ratio: float) -> Check:
    """Does the prediction move at all; `ratio`: size of predicted over size of true change, averaged over groups."""
    status: Status = "not checked" if not np.isfinite(ratio) else "warning" if ratio < 0.1 else "passed"
    detail = (
        f"the predicted change has {ratio:.0%} of the size of the true change"
        if np.isfinite(ratio)
        else "no change to compare"
    )
    return Check(name="prediction moves away from the control", status=status, detail=detail)


def read_names(names: Iterable[str] | str | Path | Any | None) -> list[str] | None:
    """Cell names: an iterable, an AnnData object, a text file with one a line, a JSON list, or an ``.h5ad`` file."""
    if names is None:
        return None
    if hasattr(names, "obs_names"):
        return [str(one) for one in names.obs_names]
    if not isinstance(names, str | Path):
        return [str(one) for one in names]
    path = Path(names)
    if not path.is_file():
        raise FileNotFoundError(f"train_names must be names or a file with them; there is no file {path}")
    if path.suffix == ".h5ad":
        import anndata

        return [str(one) for one in anndata.read_h5ad(path, backed="r").obs_names]
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        stored = json.loads(text)
        lists = stored.values() if isinstance(stored, dict) else [stored]
        return [str(one) for names_of_file in lists for one in names_of_file]
    return [line.strip() for line in text.splitlines() if line.strip()]


def raise_on(checks: list[Check]) -> None:
    """Raise LeakError if one has failed."""
    if any(one.status == "failed" for one in checks):
        raise LeakError(checks)
