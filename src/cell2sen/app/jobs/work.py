"""Jobs of the page on selected cells: annotate, transfer, perturb, ask, attention, and maps of all cells."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen import tl
from cell2sen.app.frames import Answer
from cell2sen.app.jobs.forecast import seconds_per_cell
from cell2sen.app.jobs.maps import expression_map, map_of
from cell2sen.app.jobs.measured import Contrast, contrast_of, measured_change, untreated
from cell2sen.app.page_cells import PageCells
from cell2sen.app.results import Results
from cell2sen.backend import Backend
from cell2sen.data.names.text import list_of_names
from cell2sen.data.progress import Report
from cell2sen.inference.options import Options
from cell2sen.inference.session import load_model, model_of
from cell2sen.inference.text.answers import writes_text
from cell2sen.inference.trained import trained_names
from cell2sen.tl.results import UNKNOWN, UNS

if TYPE_CHECKING:
    from anndata import AnnData

Settings = Mapping[str, Any]

#: Jobs, and whether they work on selected cells (False: on all).
WORK = {
    "annotate": True,
    "transfer": True,
    "perturb": True,
    "ask": True,
    "attention": True,
    "embed": False,
    "pca": False,
}

#: Cells of a response that are drawn first, and genes that rise and fall most that are listed.
FIRST_CELLS, N_CHANGED = 32, 20

#: Labels of an annotation whose mean probability is shown.
N_LABELS = 12

#: Options of the matrix that are settled once for all cells.
_SETTLED = ("layer", "use_raw", "scale", "progress", "model", "revision", "dtype", "quantize")


class Work:
    """Work with one model, which is loaded when it is first needed.

    Parameters
    ----------
    cells, results
        Cells, and where results are written.
    options
        Model, matrix and speed.
    reference, label
        Labelled cells of another file or object, and their column.
    """

    def __init__(
        self,
        cells: PageCells,
        results: Results,
        options: Options,
        *,
        reference: str | Path | AnnData | None = None,
        label: str | None = None,
    ) -> None:
        self.cells, self.results, self.options = cells, results, options
        self.reference, self.label = reference, label
        self.model = model_of(options)
        self._forecast: tuple[float | None] | None = None
        given = options.get("model")
        self.backend: Backend | None = given if isinstance(given, Backend) else None

    def function(self, name: str, settings: Settings) -> Callable[[NDArray[np.int64], Settings, Report], Answer]:
        """The function of a job, after a check of its settings.

        Raises
        ------
        ValueError
            A setting is missing, or the model was not trained for this.
        """
        if name == "perturb" and not str(settings.get("perturbation") or "").strip():
            raise ValueError("name the perturbation")
        if name == "ask" and not str(settings.get("question") or "").strip():
            raise ValueError("write a question")
        functions: dict[str, Callable[[NDArray[np.int64], Settings, Report], Answer]] = {
            "annotate": self.annotate,
            "transfer": self.transfer,
            "perturb": self.perturb,
            "ask": self.ask,
            "attention": self.attention,
            "embed": self.embed,
            "pca": self.pca,
        }
        return functions[name]

    def about_model(self) -> dict[str, Any]:
        """Name of the model, what it was trained on, and whether it is loaded."""
        return {
            "name": self.model.name,
            "loaded": self.backend is not None,
            "labels": sorted(trained_names(self.model, "labels")),
            "perturbations": sorted(trained_names(self.model, "perturbations")),
            "writes_text": writes_text(self.model),
            "reference": None if self.reference is None else _name_of(self.reference),
            "reference_label": self.label,
        }

    def contrast(self) -> dict[str, Any]:
        """Column with controls and perturbed cells that the file seems to have."""
        return contrast_of(self.results.shown.obs, trained_names(self.model, "perturbations"))

    def forecast(self) -> float | None:
        """Forecast of the seconds of reading a cell on the CPU; ``None`` where there is none, or no CPU reads."""
        device = getattr(self.backend, "device", None) or self.options.get("device", "auto")
        if str(device) not in ("auto", "cpu"):
            return None
        if self._forecast is None:
            self._forecast = (seconds_per_cell(self.cells, self.model, self.options),)
        return self._forecast[0]

    # -- jobs

    def annotate(self, rows: NDArray[np.int64], settings: Settings, report: Report) -> Answer:
        """Labels of cells: mean probabilities, and labels with their numbers of cells."""
        chosen = settings.get("labels")
        labels = list_of_names(chosen) if isinstance(chosen, str) and chosen.strip() else None
        threshold = float(settings.get("threshold") or 0.0)
        subset = self.subset(rows)
        tl.annotate(subset, labels, task=_default_task(self.model), threshold=threshold, **self._options(report))
        record = subset.uns[UNS]["annotate"]
        key = str(record["key"])
        self._write(subset, rows, key, "annotate", record)
        table = tl.probabilities(subset, key)
        return {
            "column": key,
            "score": f"{key}_score",
            "calibrated": bool(record["calibrated"]),
            "threshold": threshold,
            **_summary(subset.obs[key], table),
        }, {}

    def transfer(self, rows: NDArray[np.int64], settings: Settings, report: Report) -> Answer:
        """Labels of a reference, or of the cells of this file that are not selected and have one."""
        threshold = float(settings.get("threshold") or 0.0)
        subset = self.subset(rows)
        if self.reference is not None and self.label is not None and not settings.get("column"):
            reference, label = self.reference, self.label
        else:
            label = str(settings.get("column") or "")
            with self.results.lock:
                if label not in self.results.shown.obs:
                    raise ValueError(f"choose the column with the labels to carry over; there is no {label!r}")
                has_label = self.results.shown.obs[label].notna().to_numpy()
            others = np.setdiff1d(np.flatnonzero(has_label), rows)
            if not len(others):
                raise ValueError(f"no cell outside of the selection has a label in {label!r}: select fewer cells")
            reference = self.subset(others)
        options = self._options(report)
        tl.transfer(
            subset,
            reference,
            label,
            threshold=threshold,
            majority_voting=False,
            cache=False,
            reference_options={} if isinstance(self.reference, str | Path) else {"scale": options["scale"]},
            **options,
        )
        record = subset.uns[UNS]["transfer"]
        key = str(record["key"])
        self._write(subset, rows, key, "transfer", record)
        unseen = subset.obs[f"{key}_unseen"].to_numpy(dtype=np.float64)
        return {
            "column": key,
            "score": f"{key}_score",
            "calibrated": True,
            "threshold": threshold,
            "n_unseen": int((unseen > 0.99).sum()),
            "held_out": record["held_out"].get("accuracy"),
            **_summary(subset.obs[key], tl.probabilities(subset, key)),
        }, {}

    def perturb(self, rows: NDArray[np.int64], settings: Settings, report: Report) -> Answer:
        """Predicted mean change of some of the cells, and that of measured cells of the same label."""
        name = str(settings["perturbation"]).strip()
        contrast = Contrast.of(settings)
        with self.results.lock:
            obs = self.results.shown.obs.copy()
        candidates = untreated(obs, rows, contrast)
        n = int(settings.get("n") or 0) or len(candidates)
        generator = np.random.default_rng(int(settings.get("seed") or 0))
        drawn = np.sort(generator.choice(candidates, size=min(n, len(candidates)), replace=False))
        options = self._options(report)
        started = time.monotonic()
        predicted = tl.perturb(
            self.subset(drawn), name, control=(), force=bool(settings.get("force")), measured=True, **options
        )
        seconds = time.monotonic() - started
        kept = drawn[obs.index[drawn].get_indexer_for(predicted.obs_names)] if predicted.n_obs < len(drawn) else drawn
        change = np.asarray(predicted.layers["delta"].mean(axis=0), dtype=np.float64).ravel()
        control = np.asarray(predicted.layers["control"].mean(axis=0), dtype=np.float64).ravel()
        genes = predicted.var["symbol"].astype(str).tolist()
        record = predicted.uns[UNS]["perturb"]
        values: dict[str, Any] = {
            "perturbation": name,
            "n_cells": int(predicted.n_obs),
            "n_candidates": len(candidates),
            "seconds_per_cell": seconds / max(1, predicted.n_obs),
            "readout": str(record["readout"]),
            "basis": record["basis"].to_dict("records"),
            "genes": genes,
            "n_changed": N_CHANGED,
        }
        arrays = {"predicted": change.astype(np.float32), "control": control.astype(np.float32)}
        if contrast is not None and contrast.treated:
            found = measured_change(self.cells, obs, kept, contrast, self._columns_of(predicted, genes))
            values |= found.values(change)
            if found.change is not None:
                arrays["measured"] = found.change.astype(np.float32)
        return values, arrays

    def ask(self, rows: NDArray[np.int64], settings: Settings, report: Report) -> Answer:
        """Answer to a question on some of the cells."""
        table = tl.ask(
            self.subset(rows),
            str(settings["question"]),
            n_cells=10,
            seed=int(settings.get("seed") or 0),
            **self._options(report),
        )
        first = table.iloc[0]
        return {
            "question": str(settings["question"]),
            "text": str(first["text"]),
            "complete": bool(first["complete"]),
            "cells": str(first["cells"]).split("\t"),
            **{name: str(first[name]).split() for name in ("present", "absent", "unmeasured")},
        }, {}

    def attention(self, rows: NDArray[np.int64], settings: Settings, report: Report) -> Answer:
        """Attention that each gene of one cell gets from the genes behind it, mean over heads, as a share of the most.

        The last layer of the model.
        """
        row = int(settings.get("row", rows[0]))
        subset = self.subset(np.array([row]))
        tl.embed(subset, attention_for=[0], **self._options(report))
        maps = subset.uns[UNS].get("attention") or {}
        if not maps:
            raise ValueError("the cell has no genes that the model knows")
        found = next(iter(maps.values()))
        weights = np.asarray(found["map"], dtype=np.float64).mean(axis=0)
        behind = np.tril(np.ones_like(weights), -1)
        received = (weights * behind).sum(axis=0) / np.maximum(1, behind.sum(axis=0))
        received /= max(float(received.max()), 1e-12)
        return {"row": row, "genes": list(map(str, found["genes"]))}, {"attention": received.astype(np.float32)}

    def embed(self, rows: NDArray[np.int64], settings: Settings, report: Report) -> Answer:
        """Embeddings of all cells, and a map of them: UMAP, or principal components where umap is not installed."""
        subset = self.subset(rows)
        tl.embed(subset, **self._options(report))
        vectors = np.asarray(subset.obsm["X_cell2sen"], dtype=np.float32)
        self.results.write_map("X_cell2sen", vectors)
        self.results.write_record("embed", self._record(subset.uns[UNS]["embed"]))
        key, points = map_of(vectors, report)
        self.results.write_map(key, points)
        return {"map": key}, {}

    def pca(self, rows: NDArray[np.int64], settings: Settings, report: Report) -> Answer:
        """Principal components of the expression of all cells, without a model."""
        self.results.write_map("X_pca_page", expression_map(self.cells.columns, report))
        return {"map": "X_pca_page"}, {}

    # -- cells, model, results

    def subset(self, rows: NDArray[np.int64]) -> AnnData:
        """Some of the cells in memory, with the values of the chosen matrix in X, and nothing in obsm.

        Costs what the rows cost, not the file.
        """
        from anndata import AnnData

        given = self.results.given
        if self.options.get("use_raw"):
            matrix, var = given.raw.X, given.raw.var
        else:
            layer = self.options.get("layer")
            matrix, var = (given.X if layer is None else given.layers[layer]), given.var
        values = matrix[rows]
        with self.results.lock:
            obs = self.results.shown.obs.iloc[rows].copy()
        uns = {name: value for name, value in given.uns.items() if name != UNS}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are not unique, as the given object has them
            return AnnData(X=values, obs=obs, var=var.copy(), uns=uns)

    def _options(self, report: Report) -> dict[str, Any]:
        """Options of a verb: the loaded model, the scale of the whole file, and the progress."""
        report("model", 0, 1)
        if self.backend is None:
            self.backend = load_model(self.options)
        report("model", 1, 1)
        self.backend.progress = report
        kept = {name: value for name, value in self.options.items() if name not in _SETTLED}
        return {**kept, "model": self.backend, "scale": self.cells.expression.scale, "progress": report}

    def _write(self, subset: AnnData, rows: NDArray[np.int64], key: str, verb: str, record: Mapping[str, Any]) -> None:
        """Keep the columns and probabilities of a verb, under their key."""
        columns = {str(name): subset.obs[name] for name in subset.obs if name == key or str(name).startswith(f"{key}_")}
        table = subset.obsm[f"{key}_probabilities"]
        self.results.keep_only_same(key, list(map(str, table.columns)))
        self.results.write(rows, columns)
        self.results.write_table(f"{key}_probabilities", rows, table)
        self.results.write_record(verb, self._record(record))

    def _record(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Provenance with the name of the matrix that was read."""
        matrix = "raw.X" if self.options.get("use_raw") else self.options.get("layer") or "X"
        return {**record, "matrix": matrix}

    def _columns_of(self, predicted: AnnData, genes: list[str]) -> NDArray[np.int64]:
        """Places of predicted genes among those of the cells, int64; -1 for genes that are not there."""
        expression = self.cells.expression
        names = expression.reader.var.index[expression.input_columns].astype(str)
        place = {name: number for number, name in reversed(list(enumerate(names)))}
        return np.array([place.get(str(name), -1) for name in predicted.var_names], dtype=np.int64)


def _default_task(model: Any) -> str | None:
    """The cell type where a model was trained on it."""
    return "annotate" if trained_names(model, "labels") else None


def _name_of(reference: Any) -> str:
    return Path(reference).name if isinstance(reference, str | Path) else f"{reference.n_obs:,} cells"


def _summary(labels: pd.Series[Any], table: pd.DataFrame) -> dict[str, Any]:
    """Labels with their numbers of cells, and the highest mean probabilities."""
    counts = labels.value_counts()
    means = table.mean(axis=0).sort_values(ascending=False, kind="stable")
    return {
        "counts": {str(name): int(n) for name, n in counts.items() if n},
        "n_unknown": int((labels.astype(str) == UNKNOWN).sum()),
        "means": [[str(name), float(value)] for name, value in means.head(N_LABELS).items()],
        "n_labels": table.shape[1],
    }
