"""Count matrices with a known truth, and chains of changes that files go through: strategy and random draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from hypothesis import strategies as st

from cell2sen.model import resolve

#: Genes and cells of a case, and mean counts of a cell.
N_GENES, N_CELLS, DEPTHS = (60, 300, 1000, 6000), (1, 3, 12, 60), (300, 2000, 10_000, 50_000)

#: Words of a message about a scale that is not certain, about cells of several scales, about values without a scale.
SCALE, SEVERAL, NO_SCALE = "scale of", "another scale", "negative|same value|scaled|scale of|finite"


@dataclass
class Case:
    """A file in the making: values and names that are true, and what has become of them."""

    random: np.random.Generator

    truth: np.ndarray
    """float64 (cells, genes): counts."""

    genes: list[str]
    """Symbol of each column of `truth`."""

    total: np.ndarray
    """Sum of each cell over the genes that the file had when it was normalised."""

    matrix: Any
    """Values as the file has them (cells, rows of var)."""

    var: pd.DataFrame
    obs: pd.DataFrame
    place: str = "X"
    container: str = "memory"
    chain: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    """Regular expressions of the words that excuse a result other than the truth, in a warning or a refusal."""

    is_clear: bool = True
    """Whether nothing but the truth is right: enough cells, genes and counts, and no change that may be in doubt."""


@dataclass(frozen=True)
class Change:
    """One change of a file."""

    apply: Callable[[Case], None]
    reason: str = ""
    """Words of the message that a file changed like this may lead to."""

    is_clear: bool = False
    """Whether it needs no such message if there are enough cells, genes and counts."""

    @property
    def name(self) -> str:
        return self.apply.__name__.strip("_")

    def __repr__(self) -> str:
        return self.name


def build(seed: int, n_genes: int, n_cells: int, depth: float, changes: Sequence[Change]) -> Case:
    """Counts of a few cells of three types over genes of the embedded model, with a chain of changes."""
    random = np.random.default_rng(seed)
    genes = [str(gene) for gene in random.choice(_known_genes(), n_genes, replace=False)]
    share = random.gamma(0.3, 1.0, (3, n_genes)) + 1e-6
    share = share[random.integers(3, size=n_cells)]
    share /= share.sum(axis=1, keepdims=True)
    counts = random.poisson(share * depth * random.lognormal(0, 0.4, (n_cells, 1))).astype(np.float64)
    names = ["".join(random.choice(list("ACGT"), 14)) + "-1" for _ in range(n_cells)]
    case = Case(
        random=random,
        truth=counts,
        genes=genes,
        total=counts.sum(axis=1),
        matrix=sp.csr_matrix(counts.astype(np.float32)),
        var=pd.DataFrame(index=pd.Index(genes, dtype=object)),
        obs=pd.DataFrame({"cell_type": ["T cell"] * n_cells}, index=names),
    )
    case.is_clear = n_genes >= 300 and n_cells >= 12 and depth >= 2000
    for change in changes:
        change.apply(case)
        case.is_clear &= change.is_clear or not change.reason
        case.chain.append(change.name)
        case.reasons += [change.reason] if change.reason else []
    return case


@cache
def _known_genes() -> list[str]:
    return [gene for gene in resolve("nano").genes or () if gene[0].isalpha() and "." not in gene]


def draw(random: np.random.Generator) -> Case:
    """A random case; the same distribution as :func:`cases`."""

    def one(values: Sequence[Any]) -> Any:
        return values[int(random.integers(len(values)))]

    seed, chain = int(random.integers(2**32)), [one(stage) for stage in STAGES]
    return build(seed, one(N_GENES), one(N_CELLS), one(DEPTHS), chain)


def cases() -> st.SearchStrategy[Case]:
    """Strategy of cases; shrinks to few cells and genes, and to no change."""
    return st.builds(
        build,
        st.integers(0, 2**32 - 1),
        st.sampled_from(N_GENES),
        st.sampled_from(N_CELLS),
        st.sampled_from(DEPTHS),
        st.tuples(*map(st.sampled_from, STAGES)),
    )


def nothing(case: Case) -> None:
    """No change."""


# -- cells and genes that are left out


def panel_after_normalising(case: Case) -> None:
    """Genes are left out after the sums were taken, as with highly variable genes in the object."""
    keep = np.sort(case.random.choice(len(case.genes), max(20, len(case.genes) // 3), replace=False))
    case.truth, case.genes = case.truth[:, keep], [case.genes[gene] for gene in keep]
    case.matrix, case.var = case.matrix[:, keep], case.var.iloc[keep]


# -- scales


def _normalised(case: Case, total: float = 1e4) -> np.ndarray:
    return case.truth / np.maximum(case.total, 1)[:, None] * total


def _set(case: Case, values: np.ndarray) -> None:
    case.matrix = sp.csr_matrix(values)


def log1p_cp10k(case: Case) -> None:
    _set(case, np.log1p(_normalised(case)))


def log1p_cp10k_float32(case: Case) -> None:
    _set(case, np.log1p(_normalised(case)).astype(np.float32))


def log2_cpm(case: Case) -> None:
    _set(case, np.log2(1 + _normalised(case, 1e6)))


def log10_of_median_depth(case: Case) -> None:
    _set(case, np.log10(1 + _normalised(case, max(float(np.median(case.total)), 1.0))))


def log1p_of_counts(case: Case) -> None:
    _set(case, np.log1p(case.truth))


def cp10k(case: Case) -> None:
    _set(case, _normalised(case))


def cpm(case: Case) -> None:
    _set(case, _normalised(case, 1e6))


def log2_by_size_factors(case: Case) -> None:
    """As scran: a size factor of each cell that is near its share of the depth."""
    factors = case.total / max(float(np.mean(case.total)), 1.0) * case.random.lognormal(0, 0.15, len(case.total))
    _set(case, np.log2(1 + case.truth / np.maximum(factors, 1e-3)[:, None]))


def square_roots(case: Case) -> None:
    _set(case, np.sqrt(case.truth))


def arcsinh(case: Case) -> None:
    _set(case, np.arcsinh(case.truth / 5))


def corrected_counts(case: Case) -> None:
    """Counts without an estimated share of ambient RNA, which have decimals."""
    ambient = case.truth.mean(axis=0) * 0.05
    case.truth = np.maximum(case.truth - ambient, 0) * (case.truth > 0)
    case.total = case.truth.sum(axis=1)
    _set(case, case.truth)


def z_scores(case: Case) -> None:
    values = np.log1p(_normalised(case))
    _set(case, (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-9) + 1e-12)


def z_scores_without_mean(case: Case) -> None:
    """Each gene divided by its deviation: no negative values."""
    values = np.log1p(_normalised(case))
    _set(case, np.minimum(values / np.where(values.std(axis=0) > 0, values.std(axis=0), 1), 10))


def from_zero_to_one(case: Case) -> None:
    values = np.log1p(_normalised(case))
    _set(case, values / np.maximum(values.max(axis=0), 1e-9))


def binary(case: Case) -> None:
    _set(case, (case.truth > 0).astype(np.float32))


def _mixed(case: Case, first: np.ndarray, second: np.ndarray, n_second: int) -> None:
    values = np.array(first, dtype=np.float64)
    start = int(case.random.integers(len(values) - n_second + 1))
    values[start : start + n_second] = second[start : start + n_second]
    _set(case, values)


def batch_of_logarithms(case: Case) -> None:
    _mixed(case, case.truth, np.log1p(_normalised(case)), max(1, len(case.truth) // 3))


def one_cell_of_logarithms(case: Case) -> None:
    _mixed(case, case.truth, np.log1p(_normalised(case)), 1)


def batch_of_counts(case: Case) -> None:
    _mixed(case, np.log1p(_normalised(case)), case.truth, max(1, len(case.truth) // 3))


def batch_of_cp10k(case: Case) -> None:
    _mixed(case, case.truth, _normalised(case), max(1, len(case.truth) // 3))


def rounding_noise(case: Case) -> None:
    values = np.log1p(_normalised(case))
    values += np.where(values == 0, case.random.uniform(-1, 1, values.shape) * 1e-16, 0)
    _set(case, values)


def missing_values(case: Case) -> None:
    """NaN, which are read as not expressed."""
    lost = (case.truth > 0) & (case.random.random(case.truth.shape) < 0.02)
    values = case.truth.copy()
    values[lost] = np.nan
    case.truth = np.where(lost, 0, case.truth)
    case.total = case.truth.sum(axis=1)
    _set(case, values)


def one_negative_value(case: Case) -> None:
    values = case.truth.copy()
    values[int(case.random.integers(len(values))), 0] = -3
    _set(case, values)


def one_infinite_value(case: Case) -> None:
    values = case.truth.copy()
    values[int(case.random.integers(len(values))), 0] = np.inf
    _set(case, values)


# -- rows of var that are no genes


def _append(case: Case, names: list[str], values: np.ndarray, kind: str = "") -> None:
    case.matrix = sp.csr_matrix(sp.hstack([sp.csr_matrix(case.matrix), sp.csr_matrix(values)]))
    var = case.var.assign(feature_types="Gene Expression") if kind else case.var
    case.var = pd.concat([var, pd.DataFrame(dict.fromkeys(var.columns, kind), index=names)])


def antibodies(case: Case) -> None:
    """Surface proteins, some named like a gene, told apart by feature_types."""
    names = ["CD3_TotalSeqB", *map(str, case.random.choice(case.genes, 3, replace=False)), "IgG1_control_TotalSeqB"]
    _append(case, names, case.random.poisson(200, (len(case.truth), len(names))), "Antibody Capture")


def antibodies_by_name(case: Case) -> None:
    names = [f"{name}_TotalSeqB" for name in ("CD3", "CD4", "CD8a", "CD14", "CD19", "CD56")]
    _append(case, names, case.random.poisson(100, (len(case.truth), len(names))))


def guides(case: Case) -> None:
    _append(
        case, [f"STAT1_g{n}" for n in range(4)], case.random.poisson(9, (len(case.truth), 4)), "CRISPR Guide Capture"
    )


def peaks(case: Case) -> None:
    names = [f"chr{n}:{1000 * n}-{1000 * n + 500}" for n in range(1, 20)]
    _append(case, names, case.random.poisson(1, (len(case.truth), len(names))), "Peaks")


def control_probes(case: Case) -> None:
    names = [f"NegControlProbe_{number:05}" for number in range(8)]
    _append(case, names, case.random.poisson(3, (len(case.truth), 8)), "Negative Control Probe")


def spike_ins(case: Case) -> None:
    names = [f"ERCC-{number:05}" for number in range(2, 12)]
    _append(case, names, case.random.poisson(50, (len(case.truth), 10)))


# -- names


def _rename(case: Case, new: Callable[[str], str]) -> None:
    case.var = case.var.set_axis(pd.Index([new(str(name)) for name in case.var.index], dtype=object))


def _identifiers(n: int) -> pd.Index:
    return pd.Index([f"ENSG{number:011}.{number % 7}" for number in range(1, n + 1)], dtype=object)


def ensembl_index(case: Case) -> None:
    """Identifiers in the index, symbols in a column."""
    column = str(case.random.choice(["feature_name", "gene_symbols", "gene_name", "gene_short_name", "Symbol"]))
    case.var = case.var.assign(**{column: list(case.var.index)}).set_axis(_identifiers(len(case.var)))


def numbered_index(case: Case) -> None:
    """Row numbers in the index, symbols in a column, as after a conversion."""
    column = str(case.random.choice(["gene_name", "features", "names"]))
    names = list(case.var.index)
    case.var = case.var.assign(**{column: names}).set_axis(pd.Index(map(str, range(len(names))), dtype=object))


def symbol_with_identifier(case: Case) -> None:
    genes = {symbol: n for n, symbol in enumerate(case.genes)}
    _rename(case, lambda name: f"{name}_ENSG{genes[name]:011}" if name in genes else name)


def genome_prefix(case: Case) -> None:
    prefix = str(case.random.choice(["GRCh38_", "hg19_", "GRCh38___", "GRCh38---"]))
    _rename(case, lambda name: prefix + name)


def names_through_r(case: Case) -> None:
    _rename(case, lambda name: name.replace("-", "."))


def spaces_around_names(case: Case) -> None:
    _rename(case, lambda name: f" {name} ")


def transposed(case: Case) -> None:
    case.matrix, case.obs, case.var = sp.csr_matrix(case.matrix).T.tocsr(), case.var, case.obs


# -- storage


def _dtype(name: str) -> Change:
    def change(case: Case) -> None:
        if sp.issparse(case.matrix) and name in (">f4", "float16"):  # scipy has none of these
            case.matrix = case.matrix.toarray()
        data = case.matrix.data if sp.issparse(case.matrix) else case.matrix
        with np.errstate(all="ignore"):
            fits = np.all(np.isfinite(np.asarray(data).astype(name))) and np.max(data, initial=0) < 2**11
            whole = not np.any(data % 1) and np.min(data, initial=0) >= 0
        if fits and (whole or (np.dtype(name).itemsize > 2 and np.dtype(name).kind == "f")):
            case.matrix = case.matrix.astype(name)

    change.__name__ = name
    return Change(change)


def dense(case: Case) -> None:
    case.matrix = sp.csr_matrix(case.matrix).toarray()


def dense_by_columns(case: Case) -> None:
    case.matrix = np.asfortranarray(sp.csr_matrix(case.matrix).toarray())


def by_columns(case: Case) -> None:
    case.matrix = sp.csc_matrix(case.matrix)


def csr_array(case: Case) -> None:
    case.matrix = sp.csr_array(case.matrix)


def unsorted_with_zeros(case: Case) -> None:
    """Entries in a random order, with stored zeros, as after slicing and adding."""
    coo = sp.coo_matrix(case.matrix)
    zeros = np.zeros(5, dtype=coo.dtype)
    rows, columns = (case.random.integers(n, size=5) for n in case.matrix.shape)
    free = np.asarray(sp.csr_matrix(case.matrix)[rows, columns]).ravel() == 0
    row = np.concatenate([coo.row, rows[free]])
    order = np.lexsort((case.random.random(len(row)), row))
    csr = sp.csr_matrix(case.matrix.shape, dtype=coo.dtype)
    csr.data = np.concatenate([coo.data, zeros[free]])[order]
    csr.indices = np.concatenate([coo.col, columns[free]])[order].astype(np.int32)
    csr.indptr = np.append(0, np.cumsum(np.bincount(row, minlength=case.matrix.shape[0]))).astype(np.int32)
    case.matrix = csr


def entries_in_parts(case: Case) -> None:
    """Some entries stored in two parts that add up, as scipy allows."""
    csr = sp.csr_matrix(case.matrix)
    if csr.nnz and csr.dtype.kind == "f":
        row, value = int(np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr))[0]), csr.data[0]
        parts = sp.csr_matrix(csr.shape, dtype=csr.dtype)
        parts.data = np.concatenate([[value / 2, value / 2], csr.data[1:]]).astype(csr.dtype)
        parts.indices = np.concatenate([csr.indices[:1], csr.indices])
        parts.indptr = csr.indptr + (np.arange(csr.shape[0] + 1) > row)
        case.matrix = parts


# -- places and annotations


def in_layer(case: Case) -> None:
    case.place = "layer"


def in_raw(case: Case) -> None:
    case.place = "raw"


def categories_and_missing(case: Case) -> None:
    n = len(case.obs)
    case.obs = case.obs.assign(batch=pd.Categorical((["a", None] * n)[:n]), number=np.nan)
    case.var = case.var.assign(note=pd.Categorical([None, *["x"] * (len(case.var) - 1)]))


def organism_as_text(case: Case) -> None:
    case.obs = case.obs.assign(organism=pd.Categorical(["Homo sapiens"] * len(case.obs)))


def cells_by_number(case: Case) -> None:
    case.obs = case.obs.set_axis(pd.Index(map(str, range(len(case.obs))), dtype=object))


def cells_with_one_name(case: Case) -> None:
    case.obs = case.obs.set_axis(pd.Index(["cell"] * len(case.obs), dtype=object))


# -- files


def _container(name: str) -> Change:
    def change(case: Case) -> None:
        case.container = name

    change.__name__ = name
    return Change(change)


_NOTHING = Change(nothing)
SUBSETS = (_NOTHING, _NOTHING, _NOTHING, Change(panel_after_normalising, SCALE))
SCALES = (
    *[_NOTHING] * 4,
    *(
        Change(change, SCALE, is_clear=True)
        for change in (
            log1p_cp10k, log1p_cp10k_float32, log2_cpm, log10_of_median_depth, log1p_of_counts, cp10k, cpm,
            square_roots, rounding_noise,
        )
    ),
    *(Change(change, SCALE) for change in (log2_by_size_factors, arcsinh, corrected_counts)),
    *(Change(change, NO_SCALE) for change in (z_scores, z_scores_without_mean, from_zero_to_one, binary)),
    *(
        Change(change, f"{SEVERAL}|{SCALE}")
        for change in (batch_of_logarithms, one_cell_of_logarithms, batch_of_counts, batch_of_cp10k)
    ),
    Change(missing_values, f"NaN|{SCALE}"), Change(one_negative_value, "negative"),
    Change(one_infinite_value, "finite|infinite"),
)  # fmt: skip
FEATURES = (
    *[_NOTHING] * 6,
    *map(Change, (antibodies, antibodies_by_name, guides, peaks, control_probes, spike_ins)),
)
_RENAMED = (ensembl_index, numbered_index, symbol_with_identifier, genome_prefix, names_through_r, spaces_around_names)
NAMES = (*[_NOTHING] * 6, *map(Change, _RENAMED), Change(transposed, "transpose|side"))
STORAGE = tuple(
    map(Change, (nothing, dense, dense_by_columns, by_columns, csr_array, unsorted_with_zeros, entries_in_parts))
)
DTYPES = (_NOTHING, *map(_dtype, ("float64", "int32", "int64", "uint16", ">f4", "float16")))
PLACES = (_NOTHING, _NOTHING, Change(in_layer), Change(in_raw))
_ANNOTATED = (nothing, categories_and_missing, organism_as_text, cells_by_number, cells_with_one_name)
ANNOTATIONS = tuple(map(Change, _ANNOTATED))
CONTAINERS = (
    _NOTHING, _NOTHING,
    *map(_container, ("h5ad", "zarr", "zarr.zip", "h5mu", "tenx", "mtx", "loom", "csv", "tsv_of_genes", "legacy")),
)  # fmt: skip

#: One change of each stage is applied, in this order.
STAGES = (SUBSETS, SCALES, FEATURES, NAMES, STORAGE, DTYPES, PLACES, ANNOTATIONS, CONTAINERS)
