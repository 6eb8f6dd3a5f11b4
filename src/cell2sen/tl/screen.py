"""Tools for screens: perturbations, edits of cells or measured groups, ranked by their shift towards a goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from cell2sen.data.names.text import list_of_names
from cell2sen.inference.options import Options
from cell2sen.inference.responses.control_cells import AUTO
from cell2sen.inference.screen.cells import CellSettings
from cell2sen.inference.screen.goals import Space, goal_of
from cell2sen.inference.screen.run import ScreenSettings
from cell2sen.inference.screen.run import screen as run_screen
from cell2sen.tl.results import check_input, record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def screen(
    adata: AnnData,
    *,
    gene_set: str | Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    gmt: str | Path | None = None,
    direction: Sequence[str] | None = None,
    groupby: str | None = None,
    label: str | None = None,
    labels: str | Sequence[str] | None = None,
    space: Space = "auto",
    perturbations: str | Sequence[str] = (),
    delete: str | Sequence[str] = (),
    overexpress: str | Sequence[str] = (),
    measured: bool = False,
    perturbation_column: str | None = None,
    control: str | Sequence[str | None] | None = AUTO,
    screen_by: str | None = None,
    screen_in: str | Sequence[str] = (),
    contrast: Sequence[str] | None = None,
    donor: str | None = None,
    n_cells: int = 200,
    min_cells: int = 10,
    towards: Literal["up", "down"] = "up",
    n_null: int | None = None,
    seed: int = 0,
    resume: str | Path | None = None,
    key_added: str = "screen",
    **options: Unpack[Options],
) -> pd.DataFrame:
    """Perturbations, edits of cells or measured groups, ranked by how far they shift cells towards a goal.

    Parameters
    ----------
    adata
        Cells, as counts or log-normalised values; in memory or backed.
    gene_set, gmt
        Goal: a set of genes, as a list, a mapping with one set, or the name of a set in the GMT file `gmt`.
    direction, groupby
        Goal: from one group of cells to another, two values of the obs column `groupby`. Edits and perturbations are
        of cells of the first group.
    label, labels
        Goal: a label of the model, among `labels` (default: those of its training).
    space
        ``"expression"``: gene sets and directions are sums over genes. ``"embedding"``: a direction that between mean
        embeddings, a gene set a linear probe of its score. ``"auto"``: the embedding for edits, else expression.
    perturbations
        Perturbations of the model, whose response is predicted as by :func:`cell2sen.tl.perturb`.
    delete, overexpress
        Genes that are deleted from sentences, or moved to their front; ``"A+B"`` both together. ``"all"``: each gene
        that is in the prompts of `min_cells` screened cells.
    measured
        Score the groups of `perturbation_column` against its controls.
    perturbation_column, control
        Column with the perturbation of each cell, and names of its controls, which are the cells of edits and
        predictions. See :func:`cell2sen.tl.perturb`.
    screen_by, screen_in
        Column of obs whose groups of cells are screened each by itself, and which of them.
    contrast
        Two of these contexts: the effect in the first minus that in the second, as a further context of the table.
    donor
        Column of obs: intervals are over donors, each of which counts the same.
    n_cells
        Cells of each context for edits and predictions, chosen by a hash of their names. Measured groups have all.
    min_cells
        Fewest cells of a context, of a measured group, and with a gene of ``"all"`` or of the null.
    towards
        ``"up"``: the largest effect has rank 1; ``"down"``: the most negative one.
    n_null
        Null genes (default 200, for edits) or null goals (999); 0 for none.
    seed
        Seed of the null and of predicted answers.
    resume
        Folder of finished parts: an interrupted screen continues from them. Files of other settings are ignored.
    key_added
        Key of the result in ``uns["cell2sen"]``.
    **options
        Model, matrix, genes, templates and speed: see :class:`cell2sen.inference.options.Options`. ``max_genes=``
        shortens sentences, and is the way to a faster screen.

    Returns
    -------
    A row per context and item, ranked within each context. Also in ``uns["cell2sen"][key_added]["table"]``.

    ``context``, ``rank``, ``item``, ``kind``
        Context (of a contrast: ``"A − B"``), rank, name, and ``"delete"``, ``"overexpress"``, ``"perturbation"`` or
        ``"measured"``.
    ``effect``, ``low``, ``high``
        Mean shift of cells and its 95 % t interval over cells, or over donors; of measured groups Welch's. Unit: for
        gene sets the mean ln(1 + CP10k) of their genes, for directions the share of the way from one group to the
        other, for labels log-odds in nats.
    ``specific``
        Effect less the median effect of all items of its kind in the context: without what all have in common.
    ``null_mean``, ``null_sd``, ``z``, ``p``, ``fdr``
        Null effects, standard score against them, two-sided p-value, and its Benjamini-Hochberg rate in the context.
    ``null``
        ``"edits of matched genes"``: random genes of similar expression were edited; ``"goal of matched genes"``: the
        goal's weights were permuted among genes of similar expression; ``"t test"``: no null, p is of no shift.
    ``n_cells``, ``n_changed``, ``n_donors``
        Cells, those that the item changes, and donors.
    ``in_goal``
        The item is part of the goal (a gene of the set, a group of the direction): its shift is partly by construction.

    Raises
    ------
    ValueError
        Not one goal, nothing to screen, unknown genes, labels or groups, too few cells.
    KeyError
        Unknown column; lists the available ones.

    Notes
    -----
    An edit shows what the model associates with a gene's rank, not what a cell does without the gene.
    """
    check_input(adata, copy=False)
    goal = goal_of(gene_set, gmt, direction, label)
    if n_cells < 1 or min_cells < 1:
        raise ValueError(f"n_cells and min_cells must be at least 1, found {n_cells} and {min_cells}")
    pair: tuple[str, str] | None = None
    if contrast is not None:
        if isinstance(contrast, str) or len(contrast) != 2 or screen_by is None:
            raise ValueError("contrast must be two contexts, with the obs column of contexts as screen_by=")
        pair = str(contrast[0]), str(contrast[1])
    settings = ScreenSettings(
        perturbations=_names(perturbations),
        delete=_names(delete),
        overexpress=_names(overexpress),
        measured=measured,
        space=space,
        groupby=groupby,
        labels=None if labels is None else _names(labels),
        contrast=pair,
        towards=towards,
        n_null=n_null,
        seed=seed,
        resume=resume,
    )
    of_cells = CellSettings(
        perturbation_column=perturbation_column,
        control=control,
        context=screen_by,
        contexts=tuple(dict.fromkeys((*_names(screen_in), *(pair or ())))) if screen_in else (),
        donor=donor,
        n_cells=n_cells,
        min_cells=min_cells,
    )
    table, provenance = run_screen(adata, goal, settings, of_cells, options)
    record(adata, key_added, {**provenance, "table": table})
    return table


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(str, list_of_names(names)))) if len(names) else ()
