"""The command integrate: embedding, batch correction, neighbours, UMAP and clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cell2sen.cli.options import (
    CellOptions,
    File,
    Many,
    ModelOptions,
    OutputOptions,
    RunOptions,
    Seed,
    arguments,
    check_suffix,
)


def integrate(
    file: File,
    out: Annotated[Path, typer.Argument(help="AnnData with the results (.h5ad).", show_default=False)],
    batch: Annotated[
        Many,
        typer.Option(
            "--batch",
            "-b",
            help="obs column with donors, technologies or other batches, whose differences Harmony takes out. May be "
            "repeated. Default: none.",
        ),
    ] = None,
    use_rep: Annotated[
        str | None, typer.Option(help="Key of obsm with an embedding. Default: the cells are embedded.")
    ] = None,
    n_neighbors: Annotated[int, typer.Option(help="Neighbours of a cell in the graph.", min=2)] = 15,
    resolution: Annotated[float, typer.Option(help="Resolution of Leiden: larger values give more clusters.")] = 1.0,
    seed: Seed = 0,
    *,
    cells: CellOptions,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Embed cells, correct for batches with Harmony, and compute neighbours, UMAP and Leiden clusters."""
    from cell2sen import tl
    from cell2sen.data.files.opening import open_anndata
    from cell2sen.data.output import complete_file, write_results

    check_suffix(out, ".h5ad")
    with complete_file(out, file) as temporary, open_anndata(file, whole=use_rep is not None) as adata:
        tl.integrate(
            adata,
            batch or None,
            use_rep=use_rep,
            n_neighbors=n_neighbors,
            resolution=resolution,
            seed=seed,
            **arguments(cells, model, run, output),
        )
        record = adata.uns["cell2sen"]["integrate"]
        key, source = record["key"], record["use_rep"]
        write_results(
            file,
            temporary,
            adata,
            obsm=list(dict.fromkeys([source, key, "X_umap"])),
            obsp=["connectivities", "distances"],
            obs=["leiden"],
            uns=["cell2sen", "neighbors", "umap", "leiden"],
        )
        n_cells, n_clusters = len(adata), record["n_clusters"]
    batches = {name: {str(value): int(n) for value, n in table["n_cells"].items()}
               for name, table in record.get("cells_per_batch", {}).items()}  # fmt: skip
    described = "; ".join(f"{len(table)} batches of {name!r} made alike" for name, table in batches.items())
    output.summarise(
        f"{n_cells:,} cells → {out}: {n_clusters} clusters"
        + (f"; {described}" if batches else "; no batches corrected (--batch)")
        + '\nnext: c2s.pl.embedding(adata, ["leiden", ...]); X_umap, leiden and neighbors are scanpy\'s',
        file=str(out),
        n_cells=n_cells,
        n_clusters=n_clusters,
        key=key,
        batches=batches,
    )
