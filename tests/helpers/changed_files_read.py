"""Reading of changed files, and the verdict: right, refused or warned with the reason, or silently wrong."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from changed_files import Case
from containers import write_legacy, write_loom, write_mtx, write_mudata, write_tenx, zip_folder

from cell2sen.data.expression import Expression
from cell2sen.model import resolve
from cell2sen.sentences.ranking import Recipe
from cell2sen.sentences.writing import from_expression

#: Verdicts that are faults.
BAD = ("silent wrong", "crash", "refused without reason", "not recognised")

#: Errors with a message; anything else, such as an IndexError, is a crash.
REFUSALS = (ValueError, KeyError, TypeError, OSError, ImportError)

#: Largest difference of ln(1 + CP10k) that is right.
TOLERANCE = 0.01


class Verdict(NamedTuple):
    """What became of a changed file."""

    kind: Literal["right", "warned", "refused", "refused without reason", "crash", "silent wrong", "not recognised"]
    text: str


class Data(NamedTuple):
    """An object or a file, and how its matrix is named."""

    data: ad.AnnData | Path
    layer: str | None
    use_raw: bool


def written(case: Case, folder: Path) -> Data:
    """The object or file that the chain describes; matrices that are not read are wrong on purpose."""
    wrong = sp.csr_matrix(np.full(case.matrix.shape, -1.0, dtype=np.float32))
    adata = ad.AnnData(case.matrix if case.place == "X" else wrong, obs=case.obs.copy(), var=case.var.copy())
    if case.place == "layer":
        adata.layers["counts"] = case.matrix
    if case.place == "raw":
        adata.raw = ad.AnnData(case.matrix, obs=case.obs.copy(), var=case.var.copy())
    layer, use_raw = ("counts" if case.place == "layer" else None), case.place == "raw"
    if case.container == "memory":
        return Data(adata, layer, use_raw)
    return Data(_write(adata, case.container, folder), layer, use_raw)


def _write(adata: ad.AnnData, container: str, folder: Path) -> Path:
    """The file. Formats that hold no layers, or no columns of var, hold the object as .h5ad if it has some."""
    path = folder / f"cells.{container}"
    matrix = sp.csr_matrix(np.asarray(adata.X, dtype=np.float64) if isinstance(adata.X, np.ndarray) else adata.X)
    is_bare = not adata.layers and adata.raw is None and set(adata.var) <= {"note"}
    is_counted = not np.any(matrix.data % 1) and matrix.data.min(initial=0) >= 0 and matrix.data.max(initial=0) < 1e9
    if container in ("loom", "csv", "tsv_of_genes", "legacy", "mtx", "tenx") and not is_bare:
        container = "h5ad"
    if container in ("mtx", "tenx") and not is_counted:
        container = "h5ad"
    bare = ad.AnnData(
        matrix.astype(np.float32),
        obs=pd.DataFrame({"kind": pd.Categorical(["T"] * adata.n_obs)}, index=adata.obs_names),
        var=pd.DataFrame(index=adata.var_names),
    )
    match container:
        case "h5ad" | "zarr":
            getattr(adata, f"write_{container}")(path)
        case "zarr.zip":
            adata.write_zarr(folder / "cells.zarr")
            zip_folder(folder / "cells.zarr", path)
        case "h5mu":
            write_mudata(path, {"rna": adata})
            path = path / "rna"
        case "tenx":
            bare.X = sp.csr_matrix(matrix)
            bare.X.sum_duplicates()
            write_tenx(path, bare)
        case "mtx":
            bare.X = sp.csr_matrix(matrix)
            bare.X.sum_duplicates()
            write_mtx(path, bare)
        case "loom":
            write_loom(path, bare)
        case "csv":
            bare.to_df().to_csv(path)
        case "tsv_of_genes":
            path = folder / "cells.tsv"
            bare.to_df().T.to_csv(path, sep="\t")
        case "legacy":
            write_legacy(path, bare)
    return path


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Texts of the warnings that are logged."""
    texts: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    logger, handler = logging.getLogger("cell2sen"), Handler(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


@cache
def _vocabulary() -> frozenset[str]:
    return frozenset(resolve("nano").genes or ())


def is_known(symbols: Sequence[str]) -> np.ndarray:
    """Which symbols the embedded model has, bool (n,)."""
    return np.array([symbol in _vocabulary() for symbol in symbols], dtype=bool)


def verdict(case: Case, data: Data) -> Verdict:
    """What the file is read as, against the truth."""
    with _warnings() as texts:
        try:
            with Expression.open(data.data, layer=data.layer, use_raw=data.use_raw, case="upper") as opened:
                expression = opened.known_to(is_known)
                sentences = from_expression(expression, Recipe())
                fault = fault_of(case, expression, sentences.gene_names())
        except REFUSALS as error:
            if case.is_clear:
                return Verdict("not recognised", str(error))
            reasoned = any(re.search(reason, str(error)) for reason in case.reasons) or not case.truth.any()
            return Verdict("refused" if reasoned else "refused without reason", str(error))
        except Exception:
            return Verdict("crash", traceback.format_exc())
    if not fault:
        return Verdict("right", "")
    if case.is_clear and texts:
        return Verdict("not recognised", f"{fault}; warnings: {texts}")
    reasoned = any(re.search(reason, text) for reason in case.reasons for text in texts)
    return Verdict("warned", texts[0]) if reasoned else Verdict("silent wrong", f"{fault}; warnings: {texts}")


def fault_of(case: Case, expression: Expression, lists: list[list[str]]) -> str:
    """How sentences or expression differ from the truth; empty if they do not."""
    if len(lists) != len(case.truth):
        return f"{len(lists)} sentences of {len(case.truth)} cells"
    column = {gene: number for number, gene in enumerate(case.genes)}
    for row, genes in enumerate(lists):
        if strange := [gene for gene in genes if gene not in column]:
            return f"cell {row} has {strange[:3]}, which are no genes of the file"
        values = case.truth[row, [column[gene] for gene in genes]]
        if len(set(genes)) < len(genes) or np.any(np.diff(values) > 1e-5 * values[:-1]):
            return f"cell {row} is in another order: {genes[:5]}"
        if set(genes) != {gene for gene, count in zip(case.genes, case.truth[row], strict=True) if count}:
            return f"cell {row} has {len(genes)} genes of {int(np.sum(case.truth[row] > 0))}"
    found = pd.DataFrame(expression.ln_cp10k().toarray(), columns=list(expression.symbols))[case.genes].to_numpy()
    # Counts are normalised over the genes of the file, values that were normalised before over all genes of the cell.
    errors = [
        float(np.abs(found - np.log1p(case.truth / np.maximum(total, 1e-9)[:, None] * 1e4)).max(initial=0))
        for total in (case.total, case.truth.sum(axis=1))
    ]
    return "" if min(errors) < TOLERANCE else f"expression differs by {min(errors):.2f} ({expression.scale})"
