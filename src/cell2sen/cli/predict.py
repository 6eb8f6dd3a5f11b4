"""Commands that write results: sentences, embed, annotate, perturb, generate."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cell2sen.cli.options import (
    CellOptions,
    File,
    Many,
    MatrixOptions,
    ModelOptions,
    NGenes,
    OutputOptions,
    PerturbationColumn,
    Pooling,
    Readout,
    RunOptions,
    Seed,
    Temperature,
    Ties,
    Unguided,
    arguments,
    check_suffix,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class GenesOptions(MatrixOptions):
    """Expression values of --genes."""

    organism: Annotated[str | None, typer.Option(help="Organism. Default: that of --genes, or human.")] = None


def sentences(
    file: File,
    out: Annotated[Path, typer.Argument(help="Table (.parquet, .jsonl, .csv), or text (.txt).", show_default=False)],
    ties: Annotated[Ties, typer.Option(help="Order of genes of equal expression.")] = "hash",
    upper: Annotated[bool, typer.Option("--upper", help="Gene symbols in upper case.")] = False,
    seed: Seed = 0,
    perturbation_column: PerturbationColumn = None,
    keep: Annotated[Many, typer.Option(help="obs column to keep. May be repeated.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Write sentences as this model reads them. Default: all genes.")
    ] = None,
    *,
    cells: CellOptions,
    output: OutputOptions,
) -> None:
    """Write cell sentences: a table with a row per cell, or a text file with a line per cell."""
    import dataclasses

    import datasets

    from cell2sen.data.output import complete_file
    from cell2sen.model import resolve
    from cell2sen.sentences.ranking import Recipe
    from cell2sen.sentences.sentence_files import write_sentences

    check_suffix(out, ".parquet", ".jsonl", ".csv", ".txt")
    recipe = resolve(model).recipe if model else Recipe()
    values = arguments(cells, output)
    recipe = dataclasses.replace(
        recipe,
        max_genes=values.pop("max_genes", recipe.max_genes),
        case="upper" if upper else recipe.case,
        ties=ties,
        seed=seed,
    )
    datasets.disable_progress_bars()  # one for each part
    with complete_file(out, file) as temporary:
        n_genes = write_sentences(
            file, temporary, recipe, perturbation_column=perturbation_column, obs_columns=keep or (), **values
        )
    mean = float(n_genes.mean())
    output.summarise(
        f"{len(n_genes):,} sentences of {int(mean)} genes on average → {out}",
        file=str(out),
        n_cells=len(n_genes),
        mean_genes=mean,
    )


def embed(
    file: File,
    out: Annotated[Path, typer.Argument(help="AnnData with obsm['X_cell2sen'] (.h5ad), or the vectors only (.npy).")],
    pooling: Annotated[Pooling, typer.Option(help="Mean over all tokens or gene tokens, or the last one.")] = "mean",
    hidden_layer: Annotated[int, typer.Option(help="-1: after the last layer and its norm. k: after k layers.")] = -1,
    parts: Annotated[
        str | None,
        typer.Option(help="network, genes or network,genes: parts of the vectors. Default: those that the model has."),
    ] = None,
    adapt: Annotated[
        float | None,
        typer.Option(help="Minutes of training on these cells, without labels, before they are embedded."),
    ] = None,
    *,
    cells: CellOptions,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Compute a vector for each cell."""
    import numpy as np

    from cell2sen import tl
    from cell2sen.data.files.opening import open_anndata
    from cell2sen.data.output import complete_file, write_results

    check_suffix(out, ".h5ad", ".npy")
    with complete_file(out, file) as temporary, open_anndata(file) as adata:
        tl.embed(
            adata,
            pooling=pooling,
            hidden_layer=hidden_layer,
            parts=None if parts is None else [part.strip() for part in parts.split(",")],
            adapt=adapt,
            **arguments(cells, model, run, output),
        )
        vectors = adata.obsm["X_cell2sen"]
        if out.suffix == ".npy":
            with temporary.open("wb") as stream:
                np.save(stream, vectors)
        else:
            write_results(file, temporary, adata, obsm="X_cell2sen")
    n_cells, n_dimensions = vectors.shape
    output.summarise(
        f"{n_cells:,} cells × {n_dimensions} dimensions → {out}{_next_step(out)}",
        file=str(out),
        n_cells=n_cells,
        n_dimensions=n_dimensions,
        key="X_cell2sen",
    )


def _next_step(out: Path) -> str:
    """What scanpy does next with an embedding."""
    if out.suffix == ".npy":
        return ""
    return '\nnext: sc.pp.neighbors(adata, use_rep="X_cell2sen"), then sc.tl.umap(adata) or sc.tl.leiden(adata)'


def annotate(
    file: File,
    out: Annotated[Path, typer.Argument(help="AnnData with the labels in obs (.h5ad), or a table (.csv).")],
    labels: Annotated[
        Many,
        typer.Option(
            help="Labels or numbers, separated by semicolons; of several columns COLUMN=LABEL; LABEL. May be repeated. "
            "Default: the model's."
        ),
    ] = None,
    labels_file: Annotated[Path | None, typer.Option(help="Text file with one label per line.")] = None,
    threshold: Annotated[
        float, typer.Option(help="Labels with a lower probability become 'unknown'.", min=0.0, max=1.0)
    ] = 0.0,
    task: Annotated[
        Many,
        typer.Option(
            help="annotate: cell type. identify: perturbation. tissue: tissue of samples of cells. sample_cell_types: "
            "type of each cell of samples. label:COLUMN, number:COLUMN: any column of obs. joint:COLUMN+COLUMN: "
            "several in one answer. May be repeated. Default: as the model was trained."
        ),
    ] = None,
    sample_by: Annotated[
        Many,
        typer.Option(help="obs column that defines samples, such as the donor, for tasks of samples. May be repeated."),
    ] = None,
    n_cells: Annotated[int, typer.Option(help="Cells of a sample.", min=1)] = 10,
    distinct: Annotated[
        bool, typer.Option("--distinct", help="For --task sample_cell_types: different types within a sample.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the split into samples.")] = 0,
    majority_voting: Annotated[
        bool, typer.Option("--majority-voting", help="Label of most cells of each cluster, in addition.")
    ] = False,
    cluster: Annotated[str | None, typer.Option(help="obs column with clusters. Default: Leiden on the embedding.")] = (
        None
    ),
    unseen: Annotated[
        bool,
        typer.Option("--unseen", help="How unlike the training cells each cell is, from 0 to 1."),
    ] = False,
    unseen_above: Annotated[
        float | None,
        typer.Option(help="Cells with a higher unseen score become 'unknown'; 0.95 is usual.", min=0.0, max=1.0),
    ] = None,
    none_of_these: Annotated[
        bool,
        typer.Option(
            "--none-of-these",
            help="Cells for which a label of the model that is not among --labels is more probable become 'unknown'. "
            "Reads each cell twice.",
        ),
    ] = False,
    compare: Annotated[
        str | None, typer.Option(help="obs column with given labels: show how many agree, and what each is called.")
    ] = None,
    *,
    cells: CellOptions,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Choose the cell type of each cell from a list, or another label, or a number with an interval."""
    from cell2sen import tl
    from cell2sen.data.files.opening import open_anndata
    from cell2sen.data.names.text import some
    from cell2sen.data.output import complete_file, write_results

    check_suffix(out, ".h5ad", ".csv")
    if labels and labels_file:
        raise ValueError("pass either --labels or --labels-file, not both")
    menu = _menus(labels, task or ()) or _names(labels, labels_file)
    with complete_file(out, file) as temporary, open_anndata(file) as adata:
        if compare is not None and compare not in adata.obs:
            raise KeyError(f"obs has no column {compare!r} for --compare; available: {list(adata.obs.columns)}")
        tl.annotate(
            adata,
            menu,
            task=task or None,
            sample_by=sample_by,
            n_cells=n_cells,
            distinct=distinct,
            seed=seed,
            threshold=threshold,
            majority_voting=majority_voting,
            cluster=cluster,
            unseen=unseen,
            unseen_above=unseen_above,
            none_of_these=none_of_these,
            **arguments(cells, model, run, output),
        )
        record = adata.uns["cell2sen"]["annotate"]
        keys = list(record.get("results", [record["key"]]))
        votes = ("_cluster", "_majority_voting", "_majority_share", "_unseen", "_none_of_these")
        endings = ("", "_score", "_low", "_high", "_sample", *votes)
        columns = [f"{key}{ending}" for key in keys for ending in endings if f"{key}{ending}" in adata.obs]
        if out.suffix == ".csv":
            adata.obs[columns].to_csv(temporary, index_label="cell")
        else:
            write_results(file, temporary, adata, obsm=[f"{key}_probabilities" for key in keys], obs=columns)
        results = {key: _summary(adata.obs[key]) for key in keys}
        compared = tl.compare_labels(adata, compare, key=keys[0], model=model.model) if compare else None
        chosen = {key: list(map(str, record.get("results", {key: record})[key]["labels"])) for key in keys}
    lines = [f"{len(adata):,} cells → {out}"]
    for key, values in results.items():
        kind = "numbers" if f"{key}_low" in columns else "labels"
        lines.append(f"{key}: {'; '.join(f'{name} {value}' for name, value in values.items())}")
        lines.append(f"  chosen among {len(chosen[key])} {kind}: {some(chosen[key], 12)}")
    if compared is not None:
        lines.append(compared.text)
    output.summarise(
        "\n".join(lines),
        file=str(out),
        n_cells=len(adata),
        counts=results[keys[0]],
        labels=chosen[keys[0]],
        **({} if len(keys) == 1 else {"results": results}),
        **({} if compared is None else {"comparison": compared.to_dict()}),
    )


def perturb(
    file: File,
    out: Annotated[Path, typer.Argument(help="The predicted cells (.h5ad).", show_default=False)],
    perturbation: Annotated[
        str | None, typer.Option("--perturbation", "-p", help="One perturbation for all cells.")
    ] = None,
    perturbation_column: PerturbationColumn = None,
    control: Annotated[
        Many,
        typer.Option(
            help="Name of the controls in the file. May be repeated; '': cells without a value. Default: usual names."
        ),
    ] = None,
    all_cells: Annotated[
        bool, typer.Option("--all-cells", help="All cells are controls, whatever columns of obs tell.")
    ] = False,
    readout: Annotated[
        Readout, typer.Option(help="Expected expression, or that of one sentence; see docs/how-to/perturb.md.")
    ] = "auto",
    model_only: Annotated[
        bool, typer.Option("--model-only", help="The model's own prediction, without responses of its training cells.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Also for names that the model was not trained on.")] = False,
    counts: Annotated[
        bool, typer.Option("--counts", help="Whole-number counts in X: those of the controls, thinned and scaled.")
    ] = False,
    n_genes: NGenes = None,
    unguided: Unguided = False,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    *,
    cells: CellOptions,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Predict the expression of control cells after a perturbation.

    With --perturbation the controls get the response: all cells, or those that are controls in a file with others. With
    --perturbation-column alone each cell gets the response to its own perturbation.
    """
    from cell2sen import tl
    from cell2sen.data.files.opening import open_anndata
    from cell2sen.data.output import complete_file
    from cell2sen.inference.responses import summary

    check_suffix(out, ".h5ad")
    if perturbation is None and perturbation_column is None:
        raise ValueError(
            "name the perturbation (--perturbation), or the column with that of each cell (--perturbation-column)"
        )
    if all_cells and control:
        raise ValueError("pass either --control or --all-cells, not both")
    with complete_file(out, file) as temporary, open_anndata(file) as adata:
        predicted = tl.perturb(
            adata,
            perturbation,
            perturbation_column=perturbation_column,
            control=() if all_cells else control or "auto",
            n_genes=n_genes,
            readout=readout,
            measured=not model_only,
            force=force,
            output="counts" if counts else "expression",
            guided=not unguided,
            temperature=temperature,
            seed=seed,
            **arguments(cells, model, run, output),
        )
        predicted.write_h5ad(temporary, compression="gzip")
    output.summarise(
        f"{summary.text(predicted)}\n{predicted.n_obs:,} predicted cells → {out}",
        file=str(out),
        n_cells=predicted.n_obs,
        perturbations=[dataclasses.asdict(response) for response in summary.summaries(predicted)],
    )


def generate(
    out: Annotated[Path, typer.Argument(help="The generated cells (.h5ad).", show_default=False)],
    cell_type: Annotated[
        Many, typer.Option("--cell-type", "-t", help="Cell types, separated by semicolons. May be repeated.")
    ] = None,
    cell_types_file: Annotated[Path | None, typer.Option(help="Text file with one cell type per line.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Cells per type.", min=1)] = 100,
    genes: Annotated[
        Path | None, typer.Option(help="AnnData file with the genes to use. Default: the model's.")
    ] = None,
    counts: Annotated[
        bool,
        typer.Option("--counts", help="Whole-number counts in X: those of the most similar cells of --genes, moved."),
    ] = False,
    n_genes: NGenes = None,
    candidates: Annotated[
        int, typer.Option(help="Cells drawn for each one, of which one is kept by the probability of its type.", min=1)
    ] = 1,
    unguided: Unguided = False,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
    *,
    matrix: GenesOptions,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Sample new cells of given types."""
    from cell2sen import tl
    from cell2sen.data.files.opening import open_anndata
    from cell2sen.data.output import complete_file

    check_suffix(out, ".h5ad")
    cell_types = _names(cell_type, cell_types_file)
    if cell_types is None or (cell_type and cell_types_file):
        raise ValueError("pass either --cell-type or --cell-types-file")
    values = arguments(matrix, model, run, output)
    if genes is None and (matrix.raw or {"layer", "symbols", "scale"} & set(values)):
        raise ValueError("--layer, --raw, --symbols and --scale describe the file of --genes, which is not given")
    with complete_file(out, *([genes] if genes else [])) as temporary, contextlib.ExitStack() as stack:
        generated = tl.generate(
            cell_types,
            n=n,
            genes=stack.enter_context(open_anndata(genes)) if genes else None,
            n_genes=n_genes,
            candidates=candidates,
            output="counts" if counts else "expression",
            guided=not unguided,
            temperature=temperature,
            seed=seed,
            **values,
        )
        generated.write_h5ad(temporary, compression="gzip")
    validity = float(generated.obs["validity"].mean())
    output.summarise(
        f"{generated.n_obs:,} cells, {validity:.1%} of their words are valid genes → {out}",
        file=str(out),
        n_cells=generated.n_obs,
        validity=validity,
    )


def _summary(column: pd.Series[Any]) -> dict[str, Any]:
    """Cells of each label; of numbers their quartiles."""
    if column.dtype.kind == "f":
        return {f"{share:.0%}": float(f"{value:.4g}") for share, value in column.quantile([0.25, 0.5, 0.75]).items()}
    return {str(label): int(count) for label, count in column.value_counts().items() if count}


def _menus(texts: Many, tasks: Sequence[str]) -> dict[str, str] | None:
    """Column → its labels, of ``COLUMN=LABEL; LABEL``; ``None`` for tasks of one column."""
    if not texts or (len(tasks) < 2 and not any(name.startswith("joint:") for name in tasks)):
        return None
    menus: dict[str, str] = {}
    for text in texts:
        column, equals, labels = text.partition("=")
        if not equals:
            raise ValueError(f"the tasks are of several columns: --labels takes COLUMN=LABEL; LABEL, found {text!r}")
        column = column.strip()
        menus[column] = f"{menus[column]}; {labels}" if column in menus else labels
    return menus


def _names(texts: Many, file: Path | None) -> list[str] | None:
    """Names in texts, each separated by semicolons, or in the lines of a file; ``None`` without both."""
    from cell2sen.data.names.text import list_of_names
    from cell2sen.data.names.text_files import read_labels

    if file is not None:
        return read_labels(file)
    return [name for text in texts for name in list_of_names(text)] if texts else None
