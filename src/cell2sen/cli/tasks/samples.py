"""The command generate-sample: samples of several cells."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from cell2sen.cli.options import (
    Many,
    ModelOptions,
    NGenes,
    OutputOptions,
    RunOptions,
    Seed,
    Temperature,
    Unguided,
    arguments,
    check_suffix,
)
from cell2sen.cli.predict import GenesOptions


def generate_sample(
    out: Annotated[Path, typer.Argument(help="The generated cells (.h5ad).", show_default=False)],
    tissue: Annotated[Many, typer.Option(help="Tissues, separated by semicolons. May be repeated.")] = None,
    cell_types: Annotated[
        Many, typer.Option(help="Type of each cell of a sample, separated by semicolons. May be repeated.")
    ] = None,
    abstract: Annotated[Path | None, typer.Option(help="Text file with the abstract of a study.")] = None,
    n_cells: Annotated[
        int | None, typer.Option(help="Cells of a sample, 1 to 20. Default: 10, or one for each type.", min=1)
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Samples per tissue.", min=1)] = 10,
    genes: Annotated[
        Path | None, typer.Option(help="AnnData file with the genes to use. Default: the model's.")
    ] = None,
    n_genes: NGenes = None,
    unguided: Unguided = False,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
    *,
    matrix: GenesOptions,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Sample new samples of several cells: of a tissue, of given cell types, of a study, or of anything."""
    from cell2sen import tl
    from cell2sen.data.files.opening import open_anndata
    from cell2sen.data.names.text import list_of_names
    from cell2sen.data.names.text_files import read_text
    from cell2sen.data.output import complete_file

    check_suffix(out, ".h5ad")
    values = arguments(matrix, model, run, output)
    if genes is None and (matrix.raw or {"layer", "symbols", "scale"} & set(values)):
        raise ValueError("--layer, --raw, --symbols and --scale describe the file of --genes, which is not given")
    names = [[name for text in texts or () for name in list_of_names(text)] or None for texts in (tissue, cell_types)]
    with complete_file(out, *([genes] if genes else [])) as temporary, contextlib.ExitStack() as stack:
        generated = tl.generate_sample(
            names[0],
            cell_types=names[1],
            abstract=read_text(abstract) if abstract else None,
            n_cells=n_cells,
            n=n,
            genes=stack.enter_context(open_anndata(genes)) if genes else None,
            n_genes=n_genes,
            guided=not unguided,
            temperature=temperature,
            seed=seed,
            **values,
        )
        generated.write_h5ad(temporary, compression="gzip")
    n_samples = int(generated.obs["sample"].nunique())
    validity = float(generated.obs["validity"].mean())
    output.summarise(
        f"{n_samples:,} samples of {generated.n_obs // n_samples} cells, {validity:.1%} of their words are valid genes "
        f"→ {out}",
        file=str(out),
        n_cells=generated.n_obs,
        n_samples=n_samples,
        validity=validity,
    )
