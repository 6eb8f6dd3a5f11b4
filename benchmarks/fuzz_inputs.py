"""Fuzzing of inputs: count matrices with a known truth, changed as files are in practice, and read again.

    python benchmarks/fuzz_inputs.py [--draws 10000] [--seed 0] [--show 5]

Each draw makes counts of a few cells, then applies a random chain of changes (dtype, storage, scale, place, names,
other features, missing values, container, subsets). The result must be right, or refused, or come with a warning that
names the reason. Prints the number of draws that are right, refused, warned and silently wrong, and ends with 1 if any
is silently wrong or crashes. Right means: each sentence has exactly the expressed genes of its cell in descending order
of the true counts, and the expression is ln(1 + counts per 10,000) of the true counts over all genes of the file.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2sen.data.expression import Expression
from cell2sen.model import resolve
from cell2sen.sentences.from_anndata import from_expression
from cell2sen.sentences.ranking import Recipe

#: Errors with a message; anything else, such as an IndexError, is a crash.
REFUSALS = (ValueError, KeyError, TypeError, OSError, ImportError)
TOLERANCE = 0.01


@dataclass
class Case:
    """A file in the making: counts and names that are true, and what has become of them."""

    counts: np.ndarray
    """int64 (cells, genes): the truth."""

    genes: list[str]
    """Symbol of each column of `counts`."""

    matrix: Any
    """Values as the file has them (cells, columns)."""

    var: pd.DataFrame
    column_of: np.ndarray
    """Column of the file for each gene."""

    obs: pd.DataFrame
    total: np.ndarray
    """Sum of the counts of each cell over the genes that the file had when it was normalised."""

    layer: str | None = None
    use_raw: bool = False
    raw: Any = None
    chain: list[str] = field(default_factory=list)
    container: str = "memory"


def draw(random: np.random.Generator) -> Case:
    """Counts of a few cells of three types over genes of the embedded model, with a random chain of changes."""
    case = _counts(random)
    for changes in (SUBSETS, SCALES, FEATURES, NAMES, STORAGE, DTYPES, PLACES, ANNOTATIONS, CONTAINERS):
        change = changes[int(random.integers(len(changes)))]
        change(case, random)
    return case


def _counts(random: np.random.Generator) -> Case:
    known = [gene for gene in resolve("nano").genes or () if gene[0].isalpha() and "." not in gene]
    n_genes = int(random.choice([60, 300, 1000, 6000], p=[0.15, 0.35, 0.35, 0.15]))
    n_cells = int(random.choice([1, 3, 12, 60], p=[0.05, 0.15, 0.4, 0.4]))
    genes = [str(gene) for gene in random.choice(known, n_genes, replace=False)]
    depth = float(random.choice([300, 2000, 10_000, 50_000]))
    share = random.gamma(0.3, 1.0, (3, n_genes)) + 1e-6
    share = share[random.integers(3, size=n_cells)]
    share /= share.sum(axis=1, keepdims=True)
    counts = random.poisson(share * depth * random.lognormal(0, 0.4, (n_cells, 1))).astype(np.int64)
    names = ["".join(random.choice(list("ACGT"), 14)) + "-1" for _ in range(n_cells)]
    return Case(
        counts=counts,
        genes=genes,
        matrix=sp.csr_matrix(counts.astype(np.float32)),
        var=pd.DataFrame(index=pd.Index(genes, dtype=object)),
        column_of=np.arange(n_genes),
        obs=pd.DataFrame({"cell_type": ["T cell"] * n_cells}, index=names),
        total=counts.sum(axis=1),
    )


# -- changes: each takes a case, changes it in place, and appends its name


def _change(function: Callable[[Case, np.random.Generator], None]) -> Callable[[Case, np.random.Generator], None]:
    def change(case: Case, random: np.random.Generator) -> None:
        case.chain.append(function.__name__.strip("_"))
        function(case, random)

    return change


def _nothing(case: Case, random: np.random.Generator) -> None:
    """No change."""


def _normalised(case: Case, total: float | None = 1e4) -> np.ndarray:
    size = case.total[:, None] if total else 1.0
    return np.divide(case.counts, size, out=np.zeros(case.counts.shape), where=np.asarray(size) > 0) * (total or 1.0)


def _set(case: Case, values: np.ndarray) -> None:
    case.matrix = sp.csr_matrix(values)


@_change
def panel_after_normalising(case: Case, random: np.random.Generator) -> None:
    """Genes are left out after the sums were taken, as with highly variable genes in the object."""
    keep = np.sort(random.choice(len(case.genes), max(20, len(case.genes) // 3), replace=False))
    case.counts, case.genes = case.counts[:, keep], [case.genes[gene] for gene in keep]
    case.matrix, case.var = case.matrix[:, keep], case.var.iloc[keep]
    case.column_of = np.arange(len(keep))


@_change
def log1p_cp10k(case: Case, random: np.random.Generator) -> None:
    _set(case, np.log1p(_normalised(case)))


@_change
def log2_cpm(case: Case, random: np.random.Generator) -> None:
    _set(case, np.log2(1 + _normalised(case, 1e6)))


@_change
def log10_of_median_depth(case: Case, random: np.random.Generator) -> None:
    _set(case, np.log10(1 + _normalised(case, max(float(np.median(case.total)), 1.0))))


@_change
def log1p_of_counts(case: Case, random: np.random.Generator) -> None:
    _set(case, np.log1p(case.counts))


@_change
def cp10k(case: Case, random: np.random.Generator) -> None:
    _set(case, _normalised(case))


@_change
def log1p_by_size_factors(case: Case, random: np.random.Generator) -> None:
    """As scran: a size factor of each cell that is near its share of the depth."""
    factors = case.total / max(float(np.mean(case.total)), 1.0) * random.lognormal(0, 0.15, len(case.total))
    _set(case, np.log2(1 + case.counts / np.maximum(factors, 1e-3)[:, None]))


@_change
def square_roots(case: Case, random: np.random.Generator) -> None:
    _set(case, np.sqrt(case.counts))


@_change
def arcsinh(case: Case, random: np.random.Generator) -> None:
    _set(case, np.arcsinh(case.counts / 5))


@_change
def z_scores(case: Case, random: np.random.Generator) -> None:
    values = np.log1p(_normalised(case))
    _set(case, (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-9) + 1e-12)


@_change
def binary(case: Case, random: np.random.Generator) -> None:
    _set(case, (case.counts > 0).astype(np.float32))


@_change
def one_batch_in_logarithms(case: Case, random: np.random.Generator) -> None:
    values = case.counts.astype(float)
    some = slice(0, max(1, len(values) // 3))
    values[some] = np.log1p(_normalised(case))[some]
    _set(case, values)


@_change
def rounding_noise(case: Case, random: np.random.Generator) -> None:
    values = np.log1p(_normalised(case))
    values += np.where(values == 0, random.uniform(-1, 1, values.shape) * 1e-16, 0)
    _set(case, values)


def _append_columns(case: Case, names: list[str], values: np.ndarray, **columns: str) -> None:
    case.matrix = sp.csr_matrix(sp.hstack([sp.csr_matrix(case.matrix), sp.csr_matrix(values)]))
    var = case.var.copy()
    for key in columns:
        if key not in var:
            var[key] = "Gene Expression"
    extra = pd.DataFrame({key: [columns.get(key, "")] * len(names) for key in var.columns}, index=names)
    case.var = pd.concat([var, extra])


@_change
def antibodies(case: Case, random: np.random.Generator) -> None:
    """Surface proteins, some named like a gene, told apart by feature_types."""
    names = ["CD3_TotalSeqB", *random.choice(case.genes, 3, replace=False), "IgG1_control_TotalSeqB"]
    values = random.poisson(200, (len(case.counts), len(names))).astype(np.float32)
    _append_columns(case, [str(name) for name in names], values, feature_types="Antibody Capture")


@_change
def control_probes(case: Case, random: np.random.Generator) -> None:
    names = [f"NegControlProbe_{number:05}" for number in range(8)]
    _append_columns(case, names, random.poisson(3, (len(case.counts), 8)), feature_types="Negative Control Probe")


@_change
def spike_ins(case: Case, random: np.random.Generator) -> None:
    names = [f"ERCC-{number:05}" for number in range(2, 12)]
    _append_columns(case, names, random.poisson(50, (len(case.counts), 10)))


@_change
def ensembl_index(case: Case, random: np.random.Generator) -> None:
    """Identifiers in the index, symbols in a column."""
    symbols = list(case.var.index)
    case.var = case.var.assign(feature_name=symbols)
    case.var.index = pd.Index([f"ENSG{number:011}.{number % 7}" for number in range(1, len(symbols) + 1)], dtype=object)


@_change
def genome_prefix(case: Case, random: np.random.Generator) -> None:
    prefix = str(random.choice(["GRCh38_", "hg19_", "GRCh38___", "GRCh38---"]))
    case.var.index = pd.Index([prefix + str(name) for name in case.var.index], dtype=object)


@_change
def names_through_r(case: Case, random: np.random.Generator) -> None:
    case.var.index = pd.Index([str(name).replace("-", ".") for name in case.var.index], dtype=object)


@_change
def spaces_around_names(case: Case, random: np.random.Generator) -> None:
    case.var.index = pd.Index([f" {name}" for name in case.var.index], dtype=object)


@_change
def transposed(case: Case, random: np.random.Generator) -> None:
    case.matrix, case.obs, case.var = case.matrix.T.tocsr(), case.var, case.obs
    case.column_of = np.full(len(case.genes), -1)


def _dtype(name: str) -> Callable[[Case, np.random.Generator], None]:
    def change(case: Case, random: np.random.Generator) -> None:
        case.chain.append(name)
        if sp.issparse(case.matrix) and name in (">f4", "float16"):  # scipy has none of these
            case.matrix = case.matrix.toarray()
        data = case.matrix.data if sp.issparse(case.matrix) else case.matrix
        fits = np.all(np.isfinite(np.asarray(data).astype(name))) and np.max(data, initial=0) < 2**11
        whole = not np.any(data % 1) and np.min(data, initial=0) >= 0
        if fits and (whole or np.dtype(name).kind == "f"):
            case.matrix = case.matrix.astype(name)

    return change


@_change
def dense(case: Case, random: np.random.Generator) -> None:
    case.matrix = case.matrix.toarray()


@_change
def dense_by_columns(case: Case, random: np.random.Generator) -> None:
    case.matrix = np.asfortranarray(case.matrix.toarray())


@_change
def by_columns(case: Case, random: np.random.Generator) -> None:
    case.matrix = sp.csc_matrix(case.matrix)


@_change
def unsorted_with_zeros(case: Case, random: np.random.Generator) -> None:
    """Entries in a random order, with stored zeros, as after slicing and adding."""
    coo = sp.coo_matrix(case.matrix)
    zeros = np.zeros(5, dtype=coo.dtype)
    rows, columns = random.integers(case.matrix.shape[0], size=5), random.integers(case.matrix.shape[1], size=5)
    free = np.asarray(sp.csr_matrix(case.matrix)[rows, columns]).ravel() == 0
    row = np.concatenate([coo.row, rows[free]])
    order = np.lexsort((random.random(len(row)), row))
    csr = sp.csr_matrix(case.matrix.shape, dtype=coo.dtype)
    csr.data = np.concatenate([coo.data, zeros[free]])[order]
    csr.indices = np.concatenate([coo.col, columns[free]])[order].astype(np.int32)
    csr.indptr = np.append(0, np.cumsum(np.bincount(row, minlength=case.matrix.shape[0]))).astype(np.int32)
    case.matrix = csr


@_change
def in_layer(case: Case, random: np.random.Generator) -> None:
    case.layer = "counts"


@_change
def in_raw(case: Case, random: np.random.Generator) -> None:
    case.use_raw = True


@_change
def categories_and_missing(case: Case, random: np.random.Generator) -> None:
    case.obs = case.obs.assign(batch=pd.Categorical(["a", None] * len(case.obs))[: len(case.obs)], number=np.nan)
    case.var = case.var.assign(note=[None, *["x"] * (len(case.var) - 1)])


@_change
def organism_as_text(case: Case, random: np.random.Generator) -> None:
    case.obs = case.obs.assign(organism=pd.Categorical(["Homo sapiens"] * len(case.obs)))


def _container(name: str) -> Callable[[Case, np.random.Generator], None]:
    def change(case: Case, random: np.random.Generator) -> None:
        case.chain.append(name)
        case.container = name

    return change


SUBSETS = [_nothing] * 3 + [panel_after_normalising]
SCALES = [
    _nothing, _nothing, _nothing, log1p_cp10k, log1p_cp10k, log2_cpm, log10_of_median_depth, log1p_of_counts, cp10k,
    log1p_by_size_factors, square_roots, arcsinh, z_scores, binary, one_batch_in_logarithms, rounding_noise,
]  # fmt: skip
FEATURES = [_nothing] * 3 + [antibodies, control_probes, spike_ins]
NAMES = [_nothing] * 3 + [ensembl_index, genome_prefix, names_through_r, spaces_around_names, transposed]
DTYPES = [_nothing, *map(_dtype, ["float64", "int32", "int64", "uint16", ">f4", "float16"])]
STORAGE = [_nothing, dense, dense_by_columns, by_columns, unsorted_with_zeros]
PLACES = [_nothing, _nothing, in_layer, in_raw]
ANNOTATIONS = [_nothing, categories_and_missing, organism_as_text]
CONTAINERS = [_nothing, *map(_container, ["h5ad", "zarr"])]


# -- reading, and the verdict


def as_anndata(case: Case) -> ad.AnnData:
    """The object that the chain describes; what is not read is scaled, so that a wrong place is seen."""
    wrong = np.full(case.matrix.shape, -1.0, dtype=np.float32)
    place = case.layer or case.use_raw
    adata = ad.AnnData(wrong if place else case.matrix, obs=case.obs.copy(), var=case.var.copy())
    if case.layer:
        adata.layers[case.layer] = case.matrix
    if case.use_raw:
        adata.raw = ad.AnnData(case.matrix, obs=case.obs.copy(), var=case.var.copy())
    return adata


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def verdict(case: Case, folder: Path) -> tuple[str, str]:
    """``("right" | "warned" | "refused" | "crash" | "SILENT WRONG", reason)``."""
    messages = _Messages()
    logger = logging.getLogger("cell2sen")
    logger.addHandler(messages)
    propagate, logger.propagate = logger.propagate, False
    try:
        data: Any = as_anndata(case)
        if case.container != "memory":
            path = folder / f"cells.{case.container}"
            getattr(data, f"write_{case.container}")(path)
            data = path
        with Expression.open(data, layer=case.layer, use_raw=case.use_raw) as expression:
            sentences = from_expression(expression, Recipe())
            fault = _fault(case, expression, sentences.gene_names())
    except REFUSALS as error:
        return ("refused", str(error)) if len(str(error)) > 20 else ("crash", traceback.format_exc())
    except Exception:
        return "crash", traceback.format_exc()
    finally:
        logger.removeHandler(messages)
        logger.propagate = propagate
    if not fault:
        return "right", ""
    return ("warned", messages.texts[0]) if messages.texts else ("SILENT WRONG", fault)


def _fault(case: Case, expression: Expression, lists: list[list[str]]) -> str:
    """How sentences or expression differ from the truth; empty if they do not."""
    if len(lists) != len(case.counts):
        return f"{len(lists)} sentences of {len(case.counts)} cells"
    column = {gene: number for number, gene in enumerate(case.genes)}
    for row, genes in enumerate(lists):
        if strange := [gene for gene in genes if gene not in column]:
            return f"cell {row} has {strange[:3]}, which are no genes of the file"
        values = case.counts[row, [column[gene] for gene in genes]]
        if len(set(genes)) < len(genes) or np.any(np.diff(values) > 0):
            return f"cell {row} is in another order: {genes[:5]}"
        if set(genes) != {gene for gene, count in zip(case.genes, case.counts[row], strict=True) if count}:
            return f"cell {row} has {len(genes)} genes of {int(np.sum(case.counts[row] > 0))}"
    found = pd.DataFrame(expression.ln_cp10k().toarray(), columns=list(expression.symbols))
    # Counts are normalised over the genes of the file, values that were normalised before over all genes of the cell.
    sums = {total.tobytes(): total for total in (case.total, case.counts.sum(axis=1))}
    errors = [
        float(np.abs(found[case.genes].to_numpy() - np.log1p(case.counts / np.maximum(total, 1)[:, None] * 1e4)).max())
        for total in sums.values()
    ]
    return "" if min(errors) < TOLERANCE else f"expression differs by {min(errors):.2f} ({expression.scale})"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=5, help="examples of each kind of failure")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    numbers: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as base:
        for number in range(arguments.draws):
            case = draw(np.random.default_rng([arguments.seed, number]))
            with tempfile.TemporaryDirectory(dir=base) as folder:
                kind, reason = verdict(case, Path(folder))
            numbers[kind] += 1
            if kind in ("crash", "SILENT WRONG") and shown[kind] < arguments.show:
                shown[kind] += 1
                print(
                    f"{kind} in draw {number}: {' > '.join(case.chain)}, shape {case.counts.shape}\n  {reason[-600:]}"
                )
    print(json.dumps({"draws": arguments.draws, "seed": arguments.seed, **numbers}))
    sys.exit(bool(numbers["SILENT WRONG"] or numbers["crash"]))


if __name__ == "__main__":
    main()
