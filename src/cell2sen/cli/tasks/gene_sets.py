"""Commands for gene sets: name-gene-sets, list-gene-sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cell2sen.cli.options import (
    Many,
    ModelOptions,
    OutputOptions,
    RunOptions,
    Seed,
    Temperature,
    Unguided,
    arguments,
    check_suffix,
)

Organism = Annotated[str | None, typer.Option(help="Organism of the genes. Default: human.")]


def name_gene_sets(
    sets: Annotated[Path, typer.Argument(help="Gene sets (.gmt).", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Table with a row per set (.csv).", show_default=False)],
    name: Annotated[
        Many, typer.Option(help="Names to choose from, separated by semicolons. May be repeated. Default: free text.")
    ] = None,
    names_file: Annotated[Path | None, typer.Option(help="Text file with one such name per line.")] = None,
    max_genes: Annotated[int | None, typer.Option(help="Maximum number of genes of a set.", min=1)] = None,
    organism: Organism = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    *,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Name gene sets, by free text or by a choice from a list."""
    from cell2sen import tl
    from cell2sen.data.output import complete_file

    check_suffix(out, ".csv")
    values = _set(max_genes=max_genes, organism=organism) | arguments(model, run, output)
    with complete_file(out, sets) as temporary:
        table = tl.name_gene_sets(sets, names=_names(name, names_file), temperature=temperature, seed=seed, **values)
        table.to_csv(temporary)
    output.summarise(f"{len(table):,} named gene sets → {out}", file=str(out), n_sets=len(table))


def list_gene_sets(
    out: Annotated[Path, typer.Argument(help="Gene sets (.gmt), or a table (.csv).", show_default=False)],
    name: Annotated[Many, typer.Option(help="Names, separated by semicolons. May be repeated.")] = None,
    names_file: Annotated[Path | None, typer.Option(help="Text file with one name per line.")] = None,
    like: Annotated[
        Path | None, typer.Option(help="Gene sets (.gmt) whose names and numbers of genes are taken.")
    ] = None,
    genes: Annotated[
        Path | None,
        typer.Option(help="Genes that may be listed: file of cells, or text file of symbols. Default: the model's."),
    ] = None,
    n_genes: Annotated[int | None, typer.Option(help="Genes of each set. Default: as trained, or 50.", min=1)] = None,
    organism: Organism = None,
    unguided: Unguided = False,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    *,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """List the genes of named gene sets."""
    from cell2sen import tl
    from cell2sen.data.genes.gene_sets import read_sets, write_gmt
    from cell2sen.data.names.text_files import read_labels
    from cell2sen.data.output import complete_file

    check_suffix(out, ".csv", ".gmt")
    names = _names(name, names_file)
    sizes: dict[str, int] | None = None
    if like is not None:
        if names:
            raise ValueError("pass either --like or names, not both")
        sizes = {key: n_genes or len(members) for key, members in read_sets(like).items()}
        names = list(sizes)
    if not names:
        raise ValueError("name the sets to list: --name, --names-file or --like")
    values = _set(organism=organism) | arguments(model, run, output)
    with complete_file(out, *([like] if like else [])) as temporary:
        table = tl.list_gene_sets(
            names,
            genes=read_labels(genes) if genes and genes.suffix in ("", ".txt", ".csv", ".tsv") else genes,
            n_genes=sizes or n_genes,
            guided=not unguided,
            temperature=temperature,
            seed=seed,
            **values,
        )
        if out.suffix == ".gmt":
            lists = {str(key): text.split() for key, text in table["genes"].items()}
            write_gmt(temporary, lists, "written by cell2sen")
        else:
            table.to_csv(temporary)
    validity = float(table["validity"].mean())
    output.summarise(
        f"{len(table):,} gene sets, {validity:.1%} of their words are valid genes → {out}",
        file=str(out),
        n_sets=len(table),
        validity=validity,
    )


def _set(**options: Any) -> dict[str, Any]:
    """Options that are set."""
    return {name: value for name, value in options.items() if value is not None}


def _names(texts: Many, file: Path | None) -> list[str] | None:
    """Names in texts, each separated by semicolons, or in the lines of a file; ``None`` without both."""
    from cell2sen.data.names.text import list_of_names
    from cell2sen.data.names.text_files import read_labels

    if texts and file:
        raise ValueError("pass either --name or --names-file, not both")
    if file is not None:
        return read_labels(file)
    return [name for text in texts for name in list_of_names(text)] if texts else None
