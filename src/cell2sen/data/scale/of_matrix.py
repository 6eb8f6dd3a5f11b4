"""Scale of an open matrix: recognised from a sample of its cells, or given and compared with the values."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.reader import Reader, canonical
from cell2sen.data.scale.contradictions import refuse_overflow
from cell2sen.data.scale.noise import are_counts, refuse_unrankable, without_noise
from cell2sen.data.scale.recognition import doubted, n_cells, recognise
from cell2sen.data.scale.units import COUNTS, NAMED, Scale, ScaleName

logger = logging.getLogger(__name__)

#: obs columns with the counts of a cell over all genes, as scanpy, Seurat and scater write them.
DEPTH_COLUMNS = ("total_counts", "n_counts", "nCount_RNA", "nUMI", "n_umis", "total")

#: Cells of each run of a sample of whole numbers that are tested for ranks, bins and rounded logarithms.
_DOUBTED_CELLS = 20


def scale_of(reader: Reader, name: ScaleName | None = None) -> Scale:
    """Scale of a matrix: recognised from a sample of its cells, or the given one after a look at the values.

    Parameters
    ----------
    name
        Name of the scale; ``None`` or ``"auto"``: recognised.

    Raises
    ------
    ValueError
        Values that cannot be ranked, or that cannot be of the given scale.
    """
    samples = reader.samples()
    if name in (None, "auto"):
        scale = _recognised(reader, samples)
        if not scale.certain:
            warn_uncertain(scale, reader.where)
        return scale
    assert name is not None
    given = NAMED[name]
    data = np.concatenate([without_noise(run)[0].data for run in samples])
    refuse_unrankable(data, reader.hint)
    refuse_overflow(data, given)
    try:
        found = _recognised(reader, samples)
        differs = found.certain and not given.agrees_with(found)
        doubt = f"look like {found} ({'; '.join(found.evidence)})" if differs else ""
    except ValueError as error:
        doubt = f"are doubtful: {error}"
    if doubt:
        logger.warning("scale=%r was given, but the values of %s %s", name, reader.where, doubt)
    return given


def warn_uncertain(scale: Scale, where: str) -> None:
    """Log a warning about a scale that is an assumption."""
    logger.warning(
        "the scale of %s is not certain; the values are taken for: %s (%s). Predicted expression depends on it; so "
        "does the order of genes, if the values were scaled per gene or corrected per batch. If it is another one, "
        "pass scale= or --scale (%s)",
        where,
        scale,
        "; ".join(scale.evidence),
        ", ".join(NAMED),
    )


def _recognised(reader: Reader, samples: Sequence[sp.csr_matrix]) -> Scale:
    if all(are_counts(run.data) for run in samples) and max(run.data.max(initial=0) for run in samples) > 1:
        line = f"all values of {n_cells(sum(run.shape[0] for run in samples))} are whole numbers"
        some = sp.csr_matrix(sp.vstack([_some_rows(run) for run in samples]))
        return doubted(replace(COUNTS, evidence=(line,)), some)
    matrix = sp.csr_matrix(sp.vstack([canonical(run) for run in samples]))
    return recognise(matrix, reader.hint, depths=_depths(reader))


def _some_rows(run: sp.csr_matrix) -> sp.csr_matrix:
    rows = np.unique(np.linspace(0, run.shape[0] - 1, min(run.shape[0], _DOUBTED_CELLS)).astype(int))
    some = canonical(sp.csr_matrix(run[rows], dtype=np.float64))
    some.eliminate_zeros()
    return some


def _depths(reader: Reader) -> NDArray[np.float64] | None:
    """Counts of the sampled cells over all genes, if obs records them."""
    column = next((name for name in DEPTH_COLUMNS if name in reader.obs), None)
    if column is None:
        return None
    values = pd.to_numeric(reader.obs[column], errors="coerce").to_numpy(dtype=np.float64)
    return np.asarray(values[reader.sampled_rows()])
