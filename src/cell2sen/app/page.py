"""Verbs of the page without HTTP: what it shows of the cells, jobs on a selection, results as AnnData."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen import __version__
from cell2sen.app.frames import Answer, pack, unpack
from cell2sen.app.jobs.queue import Jobs, message_of
from cell2sen.app.jobs.work import WORK, Work
from cell2sen.app.page_cells import N_GENES, PageCells
from cell2sen.app.results import Results
from cell2sen.data.names.errors import MENDABLE
from cell2sen.inference.options import Options, check_options
from cell2sen.pl.palette import MAX_CATEGORIES, category_colours

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]

#: Most cells: more do not fit into a browser.
MAX_CELLS = 2_000_000

#: Genes at least: a file with fewer is a table of something else.
MIN_GENES = 2

#: Cells of a selection whose sentences are shown, genes that are listed as different, and names that a search returns.
N_SHOWN, N_DIFFERENT, N_FOUND = 20, 60, 20

#: Words in names of columns that a map is coloured by at first, in this order.
FIRST_COLOURS = ("cell2sen_cell_type", "cell_type", "celltype", "cell type", "annotation", "label", "leiden", "louvain")

#: Categories of a column that a map is coloured by at first if no name tells.
FIRST_CATEGORIES = range(2, 51)

#: Options of the matrix, which :class:`PageCells` takes.
_MATRIX = ("layer", "use_raw", "symbols", "gene_table", "aliases", "scale")


class Page:
    """The verbs of a page over one object, which is not changed.

    Parameters
    ----------
    adata
        Cells.
    name
        Name that the page shows.
    source
        File that `adata` was read from, of which a download is a copy with results.
    reference, label
        Labelled cells, and their obs column, for transfers; without them the page transfers between cells of `adata`.
    listener
        Called with the status of each job that changes.
    **options
        Model, matrix and speed: see :class:`cell2sen.inference.options.Options`.
    """

    def __init__(
        self,
        adata: AnnData,
        *,
        name: str = "cells",
        source: str | Path | None = None,
        reference: str | Path | AnnData | None = None,
        label: str | None = None,
        listener: Callable[[dict[str, Any]], None] | None = None,
        **options: Any,
    ) -> None:
        given: Options = options  # type: ignore[assignment]
        check_options(given)
        if adata.n_obs > MAX_CELLS:
            raise ValueError(
                f"{adata.n_obs:,} cells are more than a page can show ({MAX_CELLS:,}): take a sample of them first"
            )
        if (reference is None) != (label is None):
            raise ValueError("a reference and its column with the labels belong together: pass reference= and label=")
        self.name = name
        self.cells = PageCells(adata, **{key: options[key] for key in _MATRIX if key in options})
        if len(self.cells.expression.symbols) < MIN_GENES:
            found = ", ".join(map(str, self.cells.expression.symbols))
            raise ValueError(f"{name} has no genes but {found}: is this a table about cells, rather than their counts?")
        self.results = Results(adata, self.cells, source=source)
        self.work = Work(self.cells, self.results, given, reference=reference, label=label)
        self.jobs = Jobs(listener)
        self.selected: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._verbs: dict[str, Callable[[Mapping[str, Any], Arrays], Answer]] = {
            "about": self.about,
            "points": self.points,
            "column": self.column,
            "gene": self.gene,
            "genes": self.genes,
            "sentences": self.sentences,
            "compare": self.compare,
            "groups": self.groups,
            "select": self.select,
            "figure": self.figure,
            "forecast": self.forecast,
            "start": self.start,
            "status": self.status,
            "result": self.result,
            "cancel": self.cancel,
        }

    def ask(self, verb: str, body: Mapping[str, Any] | None = None, arrays: Arrays | None = None) -> Answer:
        """Answer of one of the verbs.

        Raises
        ------
        KeyError
            No such verb, map, column, gene or job.
        ValueError
            No cells are selected, or values without a meaning.
        """
        if verb not in self._verbs:
            raise KeyError(f"there is no verb {verb!r}; available: {sorted(self._verbs)}")
        return self._verbs[verb](body or {}, arrays or {})

    def answer(self, data: bytes | memoryview) -> tuple[bytes, int]:
        """Frame of an answer to the frame ``{verb, body}``, and its status as HTTP counts; errors as ``{error}``."""
        try:
            values, arrays = unpack(data)
            return pack(*self.ask(str(values.get("verb")), values.get("body") or {}, arrays)), 200
        except MENDABLE as error:
            return pack({"error": message_of(error)}), 400
        except Exception as error:
            logger.warning("the page failed: %s", message_of(error))
            return pack({"error": message_of(error)}), 500

    def prepare(self) -> None:
        """Write the sentences and sort the genes in a thread, before someone waits for them."""

        def work() -> None:
            _ = self.cells.sentences, self.cells.columns

        threading.Thread(target=work, name="cell2sen preparation", daemon=True).start()

    def close(self) -> None:
        """End the jobs."""
        self.jobs.close()

    # -- what there is

    def about(self, body: Mapping[str, Any], arrays: Arrays) -> Answer:
        """The file, its columns and maps, the model and what it was trained on, and versions."""
        with self.results.lock:
            obs = self.cells.adata.obs
            kinds = {str(name): self._kind(obs[name]) for name in obs.columns}
            columns = [{"name": name, **kind} for name, kind in kinds.items() if kind]
            maps = self.cells.maps()
        return {
            "name": self.name,
            "n_cells": len(self.cells.expression),
            "n_genes": len(self.cells.expression.symbols),
            "scale": str(self.cells.expression.scale),
            "columns": columns,
            "maps": maps,
            "first_colour": self._first_colour(columns),
            "model": self.work.about_model(),
            "contrast": self.work.contrast(),
            "versions": {"cell2sen": __version__},
            "sentence_genes": N_GENES,
        }, {}

    @staticmethod
    def _kind(values: pd.Series[Any]) -> dict[str, Any]:
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            return {"kind": "number"}
        try:
            return {"kind": "label", "n": int(values.nunique())}
        except TypeError:  # lists or other values that are no labels
            return {}

    @staticmethod
    def _first_colour(columns: list[dict[str, Any]]) -> str | None:
        labels = {column["name"]: column["n"] for column in columns if column["kind"] == "label"}
        for word in FIRST_COLOURS:
            for name, n in labels.items():
                if word in name.lower() and n > 1:
                    return str(name)
        return next((name for name, n in labels.items() if n in FIRST_CATEGORIES), None)

    def points(self, body: Mapping[str, Any], arrays: Arrays) -> Answer:
        """Coordinates of a map: ``x`` and ``y``, float32; NaN for cells without."""
        points = self.cells.points(str(body.get("map")))
        return {"map": body.get("map")}, {"x": points[:, 0].copy(), "y": points[:, 1].copy()}

    def column(self, body: Mapping[str, Any], arrays: Arrays) -> Answer:
        """Values of a column of obs, or codes with the names, numbers of cells and colours of its labels."""
        name = str(body.get("name"))
        with self.results.lock:
            values, names = self.cells.column(name)
        if names is None:
            return {"name": name, "kind": "number", **_range(values)}, {"values": values.astype(np.float32)}
        counts = np.bincount(values[values >= 0], minlength=len(names))
        many = len(names) > MAX_CATEGORIES
        shown = [names[code] for code in np.argsort(-counts, kind="stable")[:MAX_CATEGORIES]] if many else names
        colours = category_colours(shown)
        return {
            "name": name,
            "kind": "label",
            "names": names,
            "counts": counts.tolist(),
            "colours": [colours.get(label) for label in names],
        }, {"codes": values.astype(np.int32)}

    def gene(self, body: Mapping[str, Any], arrays: Arrays) -> Answer:
        """Expression of a gene, ln(1 + CP10k)."""
        symbol = str(body.get("symbol"))
        values = self.cells.gene(symbol)
        return {"name": symbol, "kind": "gene", **_range(values)}, {"values": values}

    def genes(self, body: Mapping[str, Any], arrays: Arrays) -> Answer:
        """Genes whose names begin with, or else contain a text."""
        text = str(body.get("prefix", "")).strip().upper()
        names = self.cells.expression.symbols
        first = [name for name in names if name.upper().startswith(text)]
        then = [name for name in names if text in name.upper() and not name.upper().startswith(text)] if text else []
        exact = [name for name in first if name.upper() == text]
        return {"names": list(dict.fromkeys([*exact, *sorted(first), *sorted(then)]))[:N_FOUND]}, {}

    # -- cells

    def rows(self, arrays: Arrays, name: str = "rows") -> NDArray[np.int64]:
        """Rows that are selected, each once, ascending.

        Raises
        ------
        ValueError
            There are none, or some that the file does not have.
        """
        rows, n = np.asarray(arrays.get(name, ()), dtype=np.int64), len(self.cells.expression)
        if not len(rows):
            raise ValueError("no cells are selected")
        if rows.min() < 0 or rows.max() >= n:
            raise ValueError(f"row {rows.max()} is beyond the {n} cells of the file")
        chosen = np.zeros(n, dtype=bool)
        chosen[rows] = True
        return np.flatnonzero(chosen)

    def sentences(self, body: Mapping[str, Any], arrays: Arrays) -> Answer:
        """Sentences of cells that are drawn from a selection, and how its genes differ from those of other cells.

        The others are the array ``others``, or all cells that are not selected.
        """
        rows = self.rows(arrays)
        others = self.rows(arrays, "others") if len(arrays.get("others", ())) else None
        generator = np.random.default_rng(int(body.get("seed", 0)))
        drawn = np.sort(generator.choice(rows, size=min(N_SHOWN, len(rows)), replace=False))
        rest = np.delete(np.arange(len(self.cells.expression)), rows) if others is None else others
        symbols = self.cells.sentences.symbols
        own, other = self.cells.shares_and_places(rows), self.cells.shares_and_places(rest)
        difference = own[0] - other[0]
        alphabetical = np.argsort(np.argsort(np.asarray(symbols, dtype=object)))
        first = np.lexsort((alphabetical, -difference))[:N_DIFFERENT]
        shown: list[dict[str, Any]] = [
            {"row": int(row), "name": str(self.cells.expression.names[row]), "genes": self.cells.genes_of(int(row))}
            for row in drawn
        ]
        place = {symbol: number for number, symbol in enumerate(symbols)}
        wanted = {place[gene] for cell in shown for gene in cell["genes"]} | set(first.tolist())
        values = np.column_stack([own[0], other[0], own[1], other[1]]).round(4)
        genes = {symbols[at]: values[at].tolist() for at in sorted(wanted)}
        return {
            "n": len(rows),
            "n_others": len(rest),
            "cells": shown,
            "genes": genes,
            "different": [symbols[at] for at in first if difference[at] > 0],
        }, {}

    def compare(self, body: Mapping[str, Any], arrays: Arrays) -> Answer:
        """Shares and mean expression of all genes in two groups of cells, ``a`` and ``b``."""
        a, b = self.rows(arrays, "a"), self.rows(arrays, "b")
        shared = len(np.intersect1d(a, b))
        symbols = list(self.cells.expression.symbols)
        place = {symbol: number for number, symbol in enumerate(self.cells.sentences.symbols)}
        order = np.array([place[symbol] for symbol in symbols], dtype=np.int64)
        found = {
            "share_a": self.cells.shares(a)[order],
            "share_b": self.cells.shares(b)[order],
            "mean_a": self.cells.means(a),
            "mean_b": self.cells.means(b),
        }
        return {"n_a": len(a), "n_b": len(b), "shared": shared, "genes": symbols}, {
            name: np.asarray(values, dtype=np.float32) for name, values in found.items()
        }

    def groups(self, body: Mapping[str, Any], arrays: Arrays) -> Answer:
        """Write the groups A and B to ``obs["cell2sen_group"]``, before a download."""
        self.results.check_source()
        found = {name.upper(): self.rows(arrays, name) for name in ("a", "b") if name in arrays}
        if found:
            self.results.write_groups(found)
        return {}, {}

    def select(self, body: Mapping[str, Any], arrays: Arrays) -> Answer:
        """Keep the selection for Python."""
        self.selected = self.rows(arrays) if len(arrays.get("rows", ())) else np.zeros(0, dtype=np.int64)
        return {}, {}

    def figure(self, body: Mapping[str, Any], arrays: Arrays) -> Answer:
        """The map as a picture with a legend: ``format`` png, svg or pdf; bytes in ``picture``."""
        kind, basis, colour = str(body.get("format", "png")), str(body.get("map")), body.get("colour")
        if kind not in ("png", "svg", "pdf"):
            raise ValueError(f"no pictures as {kind!r}; available: png, svg, pdf")
        picture = self.results.figure(kind, basis, body.get("kind"), None if colour is None else str(colour))
        return {"format": kind}, {"picture": np.frombuffer(picture, dtype=np.uint8)}

    # -- jobs

    def forecast(self, body: Mapping[str, Any], arrays: Arrays) -> Answer:
        """Forecast of the seconds of reading a cell with the model on the CPU, before it is loaded."""
        return {"seconds_per_cell": self.work.forecast()}, {}

    def start(self, body: Mapping[str, Any], arrays: Arrays) -> Answer:
        """Number of a new job: ``work`` is one of :data:`cell2sen.app.jobs.work.WORK`, on the selected rows."""
        name, selection = str(body.get("work")), body.get("selection")
        if name not in WORK:
            raise KeyError(f"there is no job {name!r}; available: {list(WORK)}")
        rows = self.rows(arrays) if WORK[name] else np.arange(len(self.cells.expression))
        settings = dict(body.get("settings") or {})
        function = self.work.function(name, settings)

        def work(report: Any) -> Answer:
            values, found = function(rows, settings, report)
            return {"work": name, "selection": selection, "n_selected": len(rows), **values}, found

        return {"job": self.jobs.start(name, work)}, {}

    def status(self, body: Mapping[str, Any], arrays: Arrays) -> Answer:
        """How far a job is."""
        return self.jobs.get(_number(body)).status(), {}

    def result(self, body: Mapping[str, Any], arrays: Arrays) -> Answer:
        """Result of a job that is done."""
        return self.jobs.result(_number(body))

    def cancel(self, body: Mapping[str, Any], arrays: Arrays) -> Answer:
        """End a job."""
        self.jobs.cancel(_number(body))
        return self.status(body, arrays)


def _number(body: Mapping[str, Any]) -> int:
    number = body.get("job")
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"job must be a number, found {number!r}")
    return number


def _range(values: NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Smallest and largest value, and the 99th percentile, at which colours end; ``None`` without values."""
    found = values[np.isfinite(values)]
    if not len(found):
        return {"low": None, "high": None, "clip": None, "n": 0}
    clip = float(np.percentile(found, 99))
    low, high = float(found.min()), float(found.max())
    return {"low": low, "high": high, "clip": clip if clip > low else high, "n": len(found)}
