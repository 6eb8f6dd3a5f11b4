"""The command space: graph of neighbours, regions, and the tasks of cells in space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cell2sen.cli.options import (
    CellOptions,
    File,
    Group,
    Many,
    ModelOptions,
    OutputOptions,
    RunOptions,
    Seed,
    Temperature,
    arguments,
    check_suffix,
)


@dataclass(frozen=True, kw_only=True)
class NeighbourOptions(Group):
    """Neighbours."""

    radius: Annotated[
        float | None, typer.Option(help="Neighbours are cells within this distance. Default: the stored graph.")
    ] = None
    nearest: Annotated[int | None, typer.Option(help="Neighbours are this number of nearest cells.", min=1)] = None
    section: Annotated[str | None, typer.Option(help="obs column of the section (slide).")] = None
    coordinates: Annotated[str, typer.Option(help="Key of obsm with the coordinates.")] = "spatial"

    def arguments(self) -> dict[str, Any]:
        """Options that are set, under their names in Python."""
        values = super().arguments()
        return {("k" if name == "nearest" else name): value for name, value in values.items()}


def space(
    file: File,
    out: Annotated[Path, typer.Argument(help="The results (.h5ad).", show_default=False)],
    task: Annotated[
        Literal["graph", "niche", "same_neighbourhood", "same_niche", "neighbour"],
        typer.Option("--task", "-t", help="graph: neighbours and held-out regions. The others need a model."),
    ] = "graph",
    only: Annotated[
        str | None, typer.Option(help="COLUMN=VALUE of obs: use only these cells, such as region='held out'.")
    ] = None,
    niche: Annotated[str | None, typer.Option(help="obs column of the niche, for same_niche.")] = None,
    labels: Annotated[
        Many, typer.Option(help="Niches, separated by semicolons. May be repeated. Default: the model's.")
    ] = None,
    pool: Annotated[bool, typer.Option("--pool", help="Average over neighbours, for niche.")] = False,
    n_cells: Annotated[int, typer.Option(help="Largest number of cells in a prompt.", min=1)] = 5,
    held_out: Annotated[float, typer.Option(help="Share of cells in held-out regions, for graph.")] = 0.2,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    *,
    neighbours: NeighbourOptions,
    cells: CellOptions,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Cells in space: who is a neighbour, which niche, same neighbourhood or niche, a further neighbour."""
    from cell2sen import tl
    from cell2sen.data.output import complete_file

    check_suffix(out, ".h5ad")
    options = arguments(neighbours, cells, model, run, output)
    with complete_file(out, file) as temporary:
        adata = _cells(file, only)
        if task == "graph":
            given = neighbours.arguments()
            if {"radius", "k"} & set(given):
                tl.neighbourhoods(adata, **given)
            tl.held_out_regions(adata, share=held_out, seed=seed, **given)
            result, counts = adata, adata.obs["region"].value_counts()
        elif task == "niche":
            names = [name for text in labels for name in _names(text)] if labels else None
            tl.niche(adata, names, pool=pool, **options)
            result, counts = adata, adata.obs["cell2sen_niche"].value_counts()
        elif task == "neighbour":
            result = tl.neighbour(adata, n_cells=n_cells, temperature=temperature, seed=seed, **options)
            counts = result.obs[["overlap", "context_overlap", "nearest_overlap"]].mean().round(4)
        else:
            if task == "same_neighbourhood":
                result = tl.same_neighbourhood(adata, n_cells=n_cells, seed=seed, **options)
            elif niche is None:
                raise ValueError("--task same_niche needs --niche, the obs column of the niche")
            else:
                result = tl.same_niche(adata, n_cells=n_cells, seed=seed, niche=niche, **options)
            counts = result.obs[f"cell2sen_{task}"].value_counts()
        result.write_h5ad(temporary, compression="gzip")
    summary = {str(name): float(value) for name, value in counts.items()}
    text = ", ".join(f"{name} {value:g}" for name, value in summary.items())
    output.summarise(f"{result.n_obs:,} rows → {out}: {text}", file=str(out), n_rows=result.n_obs, counts=summary)


def _cells(file: Path, only: str | None) -> Any:
    """The cells of a file, or those with a value in obs, in memory."""
    from cell2sen.data.files.opening import read_anndata
    from cell2sen.data.obs import text_column

    adata = read_anndata(file)
    if only is None:
        return adata
    column, equals, value = only.partition("=")
    if not equals:
        raise ValueError(f"--only takes COLUMN=VALUE, found {only!r}")
    values = text_column(adata.obs, column.strip(), f"obs of {file}")
    chosen = values == value.strip()
    if not chosen.any():
        raise ValueError(
            f"no cell has {value.strip()!r} in obs[{column.strip()!r}]; available: {sorted(set(map(str, values)))[:20]}"
        )
    return adata[chosen].copy()


def _names(text: str) -> list[str]:
    from cell2sen.data.names.text import list_of_names

    return list(list_of_names(text))
