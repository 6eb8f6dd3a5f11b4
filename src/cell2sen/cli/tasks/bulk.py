"""Commands for bulk samples: pseudobulk, compose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cell2sen.cli.options import (
    CellOptions,
    File,
    Many,
    MatrixOptions,
    ModelOptions,
    OutputOptions,
    RunOptions,
    Seed,
    arguments,
    check_suffix,
)


def pseudobulk(
    file: File,
    out: Annotated[Path, typer.Argument(help="The summed samples (.h5ad).", show_default=False)],
    by: Annotated[
        Many, typer.Option(help="obs column whose values define the groups, such as the donor. May be repeated.")
    ] = None,
    min_cells: Annotated[int, typer.Option(help="Groups with fewer cells are left out.", min=1)] = 1,
    *,
    matrix: MatrixOptions,
    output: OutputOptions,
) -> None:
    """Sum the counts of groups of cells."""
    from cell2sen import tl
    from cell2sen.data.output import complete_file

    check_suffix(out, ".h5ad")
    values = arguments(matrix)
    organism = values.pop("organism", None)
    with complete_file(out, file) as temporary:
        bulk = tl.pseudobulk(file, by or [], min_cells=min_cells, **values)
        if organism is not None:
            bulk.uns["organism"] = organism
        bulk.write_h5ad(temporary, compression="gzip")
    n_cells = int(bulk.obs["n_cells"].sum())
    output.summarise(
        f"{bulk.n_obs:,} samples of {n_cells:,} cells → {out}", file=str(out), n_samples=bulk.n_obs, n_cells=n_cells
    )


def compose(
    samples: Annotated[
        Path, typer.Argument(help="Bulk samples: table (.csv, .tsv), .h5ad or another file.", show_default=False)
    ],
    cells: Annotated[Path, typer.Argument(help="Single cells with labels (.h5ad).", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Table with a row per sample and population (.csv).", show_default=False)],
    label: Annotated[str, typer.Option(help="obs column of the cells with their population.")] = "cell_type",
    n_mixtures: Annotated[
        int, typer.Option(help="Random mixtures of cells that samples are compared with.", min=1)
    ] = 300,
    n_cells: Annotated[int, typer.Option(help="Cells of a mixture.", min=1)] = 300,
    k: Annotated[int, typer.Option("--k", "-k", help="Nearest mixtures whose shares are averaged.", min=1)] = 5,
    min_cells: Annotated[int, typer.Option(help="Populations with fewer cells are left out.", min=1)] = 10,
    seed: Seed = 0,
    *,
    options: CellOptions,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Find the populations of bulk samples among single cells, beside correlation and deconvolution."""
    from cell2sen import tl
    from cell2sen.data.output import complete_file

    check_suffix(out, ".csv")
    with complete_file(out, samples, cells) as temporary:
        table = tl.compose(
            samples,
            cells,
            label,
            n_mixtures=n_mixtures,
            n_cells=n_cells,
            k=k,
            min_cells=min_cells,
            seed=seed,
            **arguments(options, model, run, output),
        )
        table.to_csv(temporary, index=False)
    top = table.loc[table.groupby("sample", sort=False)["similarity"].idxmax()]
    counts = {str(sample): str(name) for sample, name in zip(top["sample"], top["population"], strict=True)}
    text = "; ".join(f"{sample}: {name}" for sample, name in counts.items())
    output.summarise(f"{len(counts):,} samples → {out}: {text}", file=str(out), nearest=counts)
