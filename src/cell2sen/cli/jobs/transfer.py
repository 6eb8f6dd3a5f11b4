"""The commands transfer and supporting-genes: labels of a reference, and the genes that speak for a label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cell2sen.cli.options import (
    CellOptions,
    File,
    Group,
    Many,
    ModelOptions,
    OutputOptions,
    RunOptions,
    Scale,
    arguments,
    check_suffix,
)

if TYPE_CHECKING:
    import pandas as pd

# Copies of menus, as in cell2sen.cli.options.
Classifier = Literal["auto", "logistic", "neighbours", "model"]
Features = Literal["auto", "embedding", "expression", "both"]


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(Group):
    """Reference."""

    reference_layer: Annotated[str | None, typer.Option(help="Layer of the reference with its values.")] = None
    reference_raw: Annotated[bool, typer.Option("--reference-raw", help="Use adata.raw of the reference.")] = False
    reference_symbols: Annotated[
        str | None, typer.Option(help="var column of the reference with gene symbols. Default: recognised.")
    ] = None
    reference_scale: Annotated[Scale | None, typer.Option(help="Scale of its values. Default: recognised.")] = None
    held_out_by: Annotated[
        str | None,
        typer.Option(help="obs column of the reference with donors or batches, held out whole when classifiers are "
                     "compared. Default: single cells."),
    ] = None  # fmt: skip
    min_cells: Annotated[int, typer.Option(help="Labels of fewer reference cells are left out.", min=1)] = 3
    hidden_layer: Annotated[
        int,
        typer.Option(help="Compare vectors after this layer. -1: the last. 1: half the time with the embedded model."),
    ] = -1
    cache: Annotated[
        bool, typer.Option(help="Keep the reference's embeddings beside its file, for the next query.")
    ] = True
    cache_folder: Annotated[Path | None, typer.Option(help="Keep them in this folder instead.")] = None

    def arguments(self) -> dict[str, Any]:
        """Options that are set, under their names in Python."""
        values = {
            "layer": self.reference_layer,
            "use_raw": self.reference_raw or None,
            "symbols": self.reference_symbols,
            "scale": self.reference_scale,
        }
        return {
            "held_out_by": self.held_out_by,
            "min_cells": self.min_cells,
            "hidden_layer": self.hidden_layer,
            "cache": self.cache_folder or self.cache,
            "reference_options": {name: value for name, value in values.items() if value is not None},
        }


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(Group):
    """Clusters."""

    majority_voting: Annotated[bool, typer.Option(help="Label of most cells of each cluster, in addition.")] = True
    cluster: Annotated[str | None, typer.Option(help="obs column with clusters. Default: Leiden on the embedding.")] = (
        None
    )
    resolution: Annotated[float | None, typer.Option(help="Resolution of Leiden. Default: many small clusters.")] = None


def transfer(
    file: File,
    reference: Annotated[Path, typer.Argument(help="File of labelled cells, of any format.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="AnnData with the labels in obs (.h5ad), or a table (.csv).")],
    label: Annotated[str, typer.Option("--label", "-l", help="obs column of the reference with the labels.")],
    classifier: Annotated[
        Classifier,
        typer.Option(
            help="Logistic regression or nearest neighbours. auto: regression, unless clearly worse on held-out cells. "
            "model: the model's own probabilities."
        ),
    ] = "auto",
    features: Annotated[Features, typer.Option(help="What it compares. auto: the better on held-out cells.")] = "auto",
    fine_tune: Annotated[
        Path | None,
        typer.Option(
            help="Train the model on the reference first, write it to this folder, and use its probabilities."
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Labels with a lower probability become 'unknown'.", min=0.0, max=1.0)
    ] = 0.0,
    *,
    source: ReferenceOptions,
    clusters: ClusterOptions,
    cells: CellOptions,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Carry the labels of a reference over to other cells, with probabilities and a vote of each cluster."""
    from cell2sen import tl
    from cell2sen.data.files.opening import open_anndata
    from cell2sen.data.output import complete_file, write_results

    check_suffix(out, ".h5ad", ".csv")
    options = arguments(cells, model, run, output)
    given = arguments(source, clusters)
    if fine_tune is not None:
        from cell2sen import training

        if classifier not in ("auto", "model"):
            raise ValueError("--fine-tune uses the probabilities of the model: leave --classifier out")
        names = ("held_out_by", "min_cells", "reference_options")
        with open_anndata(file) as adata:
            training.fine_tune(adata, reference, label, fine_tune, **{name: given[name] for name in names}, **options)
        classifier, options["model"] = "model", str(fine_tune)
        options = {name: value for name, value in options.items() if name not in ("revision", "dtype", "quantize")}
    with complete_file(out, file, reference) as temporary, open_anndata(file) as adata:
        tl.transfer(
            adata,
            reference,
            label,
            classifier=classifier,
            features=features,
            threshold=threshold,
            **given,
            **options,
        )
        record = adata.uns["cell2sen"]["transfer"]
        key = record["key"]
        columns = [name for name in adata.obs if name == key or str(name).startswith(f"{key}_")]
        if out.suffix == ".csv":
            adata.obs[columns].to_csv(temporary, index_label="cell")
        else:
            write_results(file, temporary, adata, obsm=[f"{key}_probabilities", "X_cell2sen_shared"], obs=columns)
        final = adata.obs[f"{key}_majority_voting" if clusters.majority_voting else key]
        counts = {str(name): int(count) for name, count in final.value_counts().items() if count}
        far = int((adata.obs[f"{key}_unseen"] > 0.99).sum())
    n_cells, n_genes, held_out = len(adata), record["n_shared_genes"], record["held_out"].get("accuracy")
    several = _several(record.get("clusters"))
    lines = [
        f"{n_cells:,} cells → {out}: " + "; ".join(f"{name} {count}" for name, count in counts.items()),
        f"{record['classifier']} on {record['features']} over {n_genes:,} shared genes"
        + ("" if held_out is None else f"; accuracy on held-out reference cells {held_out:.1%}"),
        f"{far:,} cells are farther from all types than about 99 % of the reference (unseen score above 0.99)",
        *([f"clusters with several types: {', '.join(several)}"] if several else []),
    ]
    output.summarise(
        "\n  ".join(lines),
        file=str(out),
        n_cells=n_cells,
        counts=counts,
        classifier=record["classifier"],
        features=record["features"],
        held_out=record["held_out"],
        n_shared_genes=n_genes,
        n_in_reference=record["n_in_reference"],
        n_unseen=far,
        clusters_with_several_types=several,
    )


def _several(table: pd.DataFrame | None) -> list[str]:
    """Names of the clusters with several types, with their labels."""
    if table is None:
        return []
    mixed = table[table["types"] == "several"]
    return [f"{name} ({row['label']}, {row['second_label']})" for name, row in mixed.iterrows()]


def supporting_genes(
    file: File,
    out: Annotated[Path, typer.Argument(help="Table of genes (.csv), or a figure (.png, .pdf, .svg).")],
    groupby: Annotated[str | None, typer.Option(help="obs column with clusters or labels to explain.")] = None,
    cell: Annotated[Many, typer.Option(help="Cell to explain instead. May be repeated.")] = None,
    labels: Annotated[
        Many,
        typer.Option(help="Labels to choose from, separated by semicolons. May be repeated. Default: the model's."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Label to explain. Default: the most likely one.")] = None,
    n_genes: Annotated[int, typer.Option(help="Highest genes of each cell that are left out in turn.", min=1)] = 50,
    n_cells: Annotated[int, typer.Option(help="Cells of each group.", min=1)] = 20,
    *,
    cells: CellOptions,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Find the genes that support the label of clusters or cells: by how much it is less likely without them."""
    from cell2sen import pl, tl
    from cell2sen.data.files.opening import open_anndata
    from cell2sen.data.names.text import list_of_names
    from cell2sen.data.output import complete_file

    check_suffix(out, ".csv", ".png", ".pdf", ".svg")
    menu = [name for text in labels for name in list_of_names(text)] if labels else None
    with complete_file(out, file) as temporary, open_anndata(file) as adata:
        table = tl.supporting_genes(
            adata,
            groupby,
            menu,
            cells=cell or (),
            label=label,
            n_genes=n_genes,
            n_cells=n_cells,
            **arguments(cells, model, run, output),
        )
        if out.suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            figure: Any = pl.supporting_genes(table)[0].figure
            figure.savefig(temporary, dpi=200)
    top = {
        str(group): {"label": str(rows["label"].iloc[0]), "genes": rows["gene"].head(5).tolist()}
        for group, rows in table.groupby("group", sort=False)
    }
    lines = [f"{group} ({found['label']}): {', '.join(found['genes'])}" for group, found in top.items()]
    output.summarise("\n  ".join([f"{len(top)} groups → {out}", *lines]), file=str(out), groups=top)
