"""Tools for explanations of labels: genes that support them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd

from cell2sen.data.names.text import as_texts
from cell2sen.data.obs import obs_column
from cell2sen.inference.annotate import check_labels, closed_set
from cell2sen.inference.embed import rows_of_cells
from cell2sen.inference.options import Options
from cell2sen.inference.session import start
from cell2sen.inference.transfer.support import sample_of, support_of_cells, table_of_support
from cell2sen.tl.results import check_input

if TYPE_CHECKING:
    from anndata import AnnData


def supporting_genes(
    adata: AnnData,
    groupby: str | None = None,
    labels: str | Sequence[Any] | None = None,
    *,
    cells: Sequence[str | int] = (),
    label: str | None = None,
    n_genes: int = 50,
    n_cells: int = 20,
    **options: Unpack[Options],
) -> pd.DataFrame:
    """Genes that support the label of cells or clusters: by how much it is less likely without them.

    Parameters
    ----------
    adata
        Cells, as counts or log-normalised values; in memory or backed. Not changed.
    groupby
        Column of obs with clusters or labels, whose groups are explained.
    labels
        Closed set of labels, as of :func:`cell2sen.tl.annotate`. Default: those that the model was trained on.
    cells
        Cells to explain instead of groups, by name or number.
    label
        One of the labels, which is explained in all groups. Default: of each group its most likely one.
    n_genes
        Highest genes of each cell that are left out in turn.
    n_cells
        Cells of each group, drawn by a hash of their names.
    **options
        Model, matrix, genes, templates and speed: see :class:`cell2sen.inference.options.Options`.

    Returns
    -------
    A row per group and gene, the largest support first.

    ``group``, ``label``, ``gene``
        Group or name of the cell, label, and the model's name of the gene.
    ``support``
        Mean over the cells of the change of the label's log-odds, nats: with the gene minus without it. Positive:
        the gene speaks for the label. 0 for cells where it is not among the highest genes.
    ``n_with_gene``, ``n_cells``
        Cells in which the gene was left out, and all cells.

    Raises
    ------
    ValueError
        Neither or both of `groupby` and `cells`, a label that is not among `labels`, or no cell with genes.
    KeyError
        Unknown column or cell; lists the available ones.

    Notes
    -----
    The support is what the model uses, not a test of differential expression; genes that occur together share it.
    """
    check_input(adata, copy=True)
    if (groupby is None) == (not len(cells)):
        raise ValueError("pass either groupby=, a column of obs, or cells=, names of cells")
    if n_genes < 1 or n_cells < 1:
        raise ValueError(f"n_genes and n_cells must be at least 1, found {n_genes} and {n_cells}")
    given = None if labels is None else check_labels(labels)
    rows = rows_of_cells(adata.obs_names, list(cells))
    values = None if groupby is None else as_texts(obs_column(adata.obs, groupby))
    with start(adata, "annotate", options) as session:
        chosen = closed_set(session.task, session.model, given)
        if label is not None and label not in chosen.labels:
            raise ValueError(f"label must be one of {list(chosen.labels)}, found {label!r}")
        names = [str(name) for name in session.sentences.names]
        has_genes = session.sentences.n_genes > 0
        groups: dict[str, list[int]] = {}
        if values is None:
            groups = {names[row]: [row] for row in rows if has_genes[row]}
        else:
            for group in sorted({value for value in values if value is not None}):
                members = [row for row, value in enumerate(values) if value == group and has_genes[row]]
                if members:
                    groups[group] = sample_of(names, members, n_cells)
        used = np.array(sorted({row for members in groups.values() for row in members}), dtype=np.int64)
        if not len(used):
            raise ValueError("none of these cells has an expressed gene that the model has")
        found = support_of_cells(session, chosen, used, n_genes, progress=options.get("progress", True))
    place = {int(row): number for number, row in enumerate(used)}
    numbered = {group: [place[row] for row in members] for group, members in groups.items()}
    return table_of_support(found, numbered, chosen.labels, label)
