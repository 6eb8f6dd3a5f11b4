"""The command line: files in, files out. Progress and messages on stderr, results in files, JSON on stdout."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cell2sen import __version__
from cell2sen.cli import evaluate as cli_evaluate
from cell2sen.cli import train as cli_train

if TYPE_CHECKING:
    from cell2sen.inference.options import Options

#: What typer exits with after SIGINT.
INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Language models on single cells: cells as sentences of genes.",
)  # fmt: skip

File = Annotated[Path, typer.Argument(help="AnnData file (.h5ad or .zarr). Never changed.", show_default=False)]
Out = Annotated[Path, typer.Argument(help="File to write.", show_default=False)]
ModelName = Annotated[
    str, typer.Option("--model", "-m", help="Known name (see `cell2sen models`), directory or hub id.")
]
Layer = Annotated[str | None, typer.Option(help="Layer with the values to rank, instead of X.")]
Raw = Annotated[bool, typer.Option("--raw", help="Rank the values of adata.raw.")]
Symbols = Annotated[str | None, typer.Option(help="var column with gene symbols.")]
GeneTable = Annotated[str | None, typer.Option(help="Table from gene ids to symbols (CSV, TSV, Parquet).")]
Aliases = Annotated[str | None, typer.Option(help="Table from old to approved symbols (CSV, TSV, Parquet).")]
Organism = Annotated[str | None, typer.Option(help="Organism of all cells; read from the file by default.")]
MaxGenes = Annotated[int | None, typer.Option(help="Genes of a sentence at most.", min=1)]
Templates = Annotated[str | None, typer.Option(help="JSON file with other wording, or cell2sen, or cell2sentence.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub checkpoint.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Quantize = Annotated[str | None, typer.Option(help="4bit or 8bit.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
BatchSize = Annotated[int | None, typer.Option(help="Prompts in a batch; changes the speed only.", min=1)]
Online = Annotated[bool, typer.Option("--online", help="Fetch a missing checkpoint from the hub.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Json = Annotated[bool, typer.Option("--json", help="A summary in JSON on stdout.")]
Column = Annotated[str | None, typer.Option(help="obs column with one perturbation per cell.")]
Seed = Annotated[int, typer.Option(help="Seed of sampling.")]
Unguided = Annotated[bool, typer.Option("--unguided", help="Let the model write freely, and report what is no gene.")]
NGenes = Annotated[int | None, typer.Option(help="Genes of a predicted sentence at most.", min=1)]
Temperature = Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy.", min=0.0)]


def main() -> None:
    """Run the command line; errors a user can mend are one line on stderr and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("cell2sen").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that temporary files vanish
    try:
        app(prog_name="cell2sen")
    except SystemExit as done:
        if done.code == INTERRUPTED:
            typer.secho("interrupted; nothing was written", fg="red", err=True)
        raise
    except (ValueError, KeyError, ImportError, OSError, NotImplementedError, MemoryError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        typer.secho(f"error: {message or type(error).__name__}", fg="red", err=True)
        sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cell2sen {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Language models on single cells: cells as sentences of genes."""


@app.command()
def check(
    file: File,
    model: ModelName = "nano",
    layer: Layer = None,
    raw: Raw = False,
    symbols: Symbols = None,
    gene_table: GeneTable = None,
    aliases: Aliases = None,
    organism: Organism = None,
    max_genes: MaxGenes = None,
    perturbation_column: Column = None,
    revision: Revision = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Say what a file is and what would fail, before any model is loaded. Exit code 1 if something would."""
    from cell2sen.inference.check import check as run
    from cell2sen.model import resolve

    _check_menus(dtype=dtype, quantize=quantize)
    found = run(
        file, resolve(model, revision=revision, dtype=dtype, quantize=quantize), layer=layer, use_raw=raw,
        symbols=symbols, gene_table=gene_table, aliases=aliases, organism=organism, max_genes=max_genes,
        perturbation_column=perturbation_column, progress=not quiet,
    )  # fmt: skip
    typer.echo(found.to_json() if as_json else found.text)
    raise typer.Exit(0 if found.ok else 1)


@app.command()
def sentences(
    file: File,
    out: Out,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Write as this model wants it; all genes by default.")
    ] = None,
    layer: Layer = None,
    raw: Raw = False,
    symbols: Symbols = None,
    gene_table: GeneTable = None,
    aliases: Aliases = None,
    organism: Organism = None,
    max_genes: MaxGenes = None,
    ties: Annotated[str, typer.Option(help="hash, random or alphabetical.")] = "hash",
    upper: Annotated[bool, typer.Option("--upper", help="Symbols in upper case.")] = False,
    seed: Seed = 0,
    perturbation_column: Column = None,
    keep: Annotated[list[str] | None, typer.Option(help="obs column to keep; may be repeated.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write cell sentences: .parquet, .jsonl or .csv with all columns, .txt with one sentence per line."""
    import dataclasses

    from cell2sen.data.output import complete
    from cell2sen.model import resolve
    from cell2sen.sentences.ranking import Recipe
    from cell2sen.sentences.sentences import from_anndata

    _known_suffix(out, (".parquet", ".jsonl", ".csv", ".txt"))
    recipe = resolve(model).recipe if model else Recipe()
    recipe = dataclasses.replace(
        recipe, max_genes=max_genes or recipe.max_genes, case="upper" if upper else recipe.case,
        ties=ties, seed=seed,  # type: ignore[arg-type]
    )  # fmt: skip
    with complete(out, file) as temporary:
        found = from_anndata(
            file, recipe, layer=layer, use_raw=raw, symbols=symbols, gene_table=gene_table, aliases=aliases,
            organism=organism, perturbation_column=perturbation_column, obs_columns=keep or (), progress=not quiet,
        )  # fmt: skip
        if out.suffix == ".txt":
            temporary.write_text("".join(f"{text}\n" for text in found.texts().to_pylist()), encoding="utf-8")
        else:
            import datasets

            if quiet:
                datasets.disable_progress_bars()
            dataset = found.to_dataset()
            write = {".parquet": dataset.to_parquet, ".jsonl": dataset.to_json, ".csv": dataset.to_csv}[out.suffix]
            write(temporary)
    n_genes = found.n_genes
    _say(as_json, f"{len(found):,} sentences of {int(n_genes.mean())} genes on average → {out}", file=str(out),
         n_cells=len(found), mean_genes=float(n_genes.mean()))  # fmt: skip


@app.command()
def embed(
    file: File,
    out: Annotated[Path, typer.Argument(help="The file with obsm['X_cell2sen'] (.h5ad), or the array (.npy).")],
    model: ModelName = "nano",
    pooling: Annotated[str, typer.Option(help="mean, genes or last.")] = "mean",
    hidden_layer: Annotated[int, typer.Option(help="-1: after the last norm; k: after k layers.")] = -1,
    layer: Layer = None,
    raw: Raw = False,
    symbols: Symbols = None,
    gene_table: GeneTable = None,
    aliases: Aliases = None,
    organism: Organism = None,
    max_genes: MaxGenes = None,
    templates: Templates = None,
    revision: Revision = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    online: Online = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Embed every cell."""
    import numpy as np

    from cell2sen import tl
    from cell2sen.data.output import complete, write_results
    from cell2sen.data.reader import backed

    _known_suffix(out, (".h5ad", ".npy"))
    options = _gather(locals())
    with complete(out, file) as temporary, backed(file) as adata:
        tl.embed(adata, pooling=pooling, hidden_layer=hidden_layer, **options)  # type: ignore[arg-type]
        vectors = adata.obsm["X_cell2sen"]
        if out.suffix == ".npy":
            with temporary.open("wb") as stream:
                np.save(stream, vectors)
        else:
            write_results(file, temporary, adata, obsm="X_cell2sen")
    _say(as_json, f"{vectors.shape[0]:,} cells × {vectors.shape[1]} dimensions → {out}", file=str(out),
         n_cells=vectors.shape[0], n_dimensions=vectors.shape[1], key="X_cell2sen")  # fmt: skip


@app.command()
def annotate(
    file: File,
    out: Annotated[Path, typer.Argument(help="The file with the labels in obs (.h5ad), or a table (.csv).")],
    labels: Annotated[str | None, typer.Option(help="Cell types to choose from, separated by semicolons.")] = None,
    labels_file: Annotated[Path | None, typer.Option(help="The same, one per line.")] = None,
    threshold: Annotated[float, typer.Option(help="Less probable labels become 'unknown'.", min=0.0, max=1.0)] = 0.0,
    task: Annotated[str, typer.Option(help="identify asks for the perturbation instead.")] = "annotate",
    model: ModelName = "nano",
    layer: Layer = None,
    raw: Raw = False,
    symbols: Symbols = None,
    gene_table: GeneTable = None,
    aliases: Aliases = None,
    organism: Organism = None,
    max_genes: MaxGenes = None,
    templates: Templates = None,
    revision: Revision = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    online: Online = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Choose a cell type for every cell out of a closed set."""
    from cell2sen import tl
    from cell2sen.data.output import complete, write_results
    from cell2sen.data.reader import backed

    _known_suffix(out, (".h5ad", ".csv"))
    options = _gather(locals())
    if labels and labels_file:
        raise ValueError("pass either --labels or --labels-file, not both")
    chosen = [one.strip() for one in labels.split(";") if one.strip()] if labels else None
    if labels_file:
        chosen = [line.strip() for line in labels_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    with complete(out, file) as temporary, backed(file) as adata:
        tl.annotate(adata, chosen, task=task, threshold=threshold, **options)
        key = adata.uns["cell2sen"]["annotate"]["key"]
        column = adata.obs[key]
        if out.suffix == ".csv":
            adata.obs[[key, f"{key}_score"]].to_csv(temporary, index_label="cell")
        else:
            write_results(file, temporary, adata, obsm=f"{key}_probabilities")
    counts = {str(label): int(count) for label, count in column.value_counts().items() if count}
    _say(as_json, f"{len(column):,} cells → {out}: " + ", ".join(f"{label} {count}" for label, count in counts.items()),
         file=str(out), n_cells=len(column), counts=counts)  # fmt: skip


@app.command()
def perturb(
    file: File,
    out: Annotated[Path, typer.Argument(help="The predicted cells (.h5ad).")],
    perturbation: Annotated[
        str | None, typer.Option("--perturbation", "-p", help="One perturbation for all cells.")
    ] = None,
    perturbation_column: Column = None,
    n_genes: NGenes = None,
    readout: Annotated[Literal["auto", "expected", "sentence"], typer.Option(help="See cell2sen.tl.perturb.")] = "auto",
    correction: Annotated[bool, typer.Option(help="Add what expected responses missed in the training cells.")] = True,
    unguided: Unguided = False,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    model: ModelName = "nano",
    layer: Layer = None,
    raw: Raw = False,
    symbols: Symbols = None,
    gene_table: GeneTable = None,
    aliases: Aliases = None,
    organism: Organism = None,
    max_genes: MaxGenes = None,
    templates: Templates = None,
    revision: Revision = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    online: Online = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Predict each cell's expression after a perturbation."""
    from cell2sen import tl
    from cell2sen.data.output import complete
    from cell2sen.data.reader import backed

    _known_suffix(out, (".h5ad",))
    options = _gather(locals())
    if (perturbation is None) == (perturbation_column is None):
        raise ValueError("pass either --perturbation or --perturbation-column")
    with complete(out, file) as temporary, backed(file) as adata:
        predicted = tl.perturb(
            adata, perturbation, perturbation_column=perturbation_column, n_genes=n_genes, readout=readout,
            correction=correction, guided=not unguided, temperature=temperature, seed=seed, **options,
        )  # fmt: skip
        predicted.write_h5ad(temporary, compression="gzip")
    validity = float(predicted.obs["validity"].mean())
    _say(as_json, f"{predicted.n_obs:,} predicted cells, {validity:.1%} of their words are valid genes → {out}",
         file=str(out), n_cells=predicted.n_obs, validity=validity)  # fmt: skip


@app.command()
def generate(
    out: Annotated[Path, typer.Argument(help="The generated cells (.h5ad).")],
    cell_type: Annotated[list[str], typer.Option("--cell-type", "-t", help="May be repeated.")],
    n: Annotated[int, typer.Option("--n", "-n", help="Cells per type.", min=1)] = 100,
    genes: Annotated[
        Path | None, typer.Option(help="AnnData file with the genes to use; the model's own by default.")
    ] = None,
    n_genes: NGenes = None,
    unguided: Unguided = False,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
    model: ModelName = "nano",
    organism: Organism = None,
    templates: Templates = None,
    revision: Revision = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    online: Online = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Draw cells of given types."""
    from cell2sen import tl
    from cell2sen.data.output import complete
    from cell2sen.data.reader import backed

    _known_suffix(out, (".h5ad",))
    options = _gather(locals())
    with complete(out, *([genes] if genes else [])) as temporary, contextlib.ExitStack() as stack:
        drawn = tl.generate(
            cell_type, n=n, genes=stack.enter_context(backed(genes)) if genes else None, n_genes=n_genes,
            guided=not unguided, temperature=temperature, seed=seed, **options,
        )  # fmt: skip
        drawn.write_h5ad(temporary, compression="gzip")
    validity = float(drawn.obs["validity"].mean())
    _say(as_json, f"{drawn.n_obs:,} cells, {validity:.1%} of their words are valid genes → {out}", file=str(out),
         n_cells=drawn.n_obs, validity=validity)  # fmt: skip


app.command()(cli_train.train)


app.command()(cli_evaluate.evaluate)


@app.command()
def models(as_json: Json = False) -> None:
    """List the models known by name."""
    from cell2sen.model import KNOWN

    rows = [
        {"name": one.name, "parameters": one.parameters, "licence": one.licence,
         "hub_id": "" if one.is_local else one.path, "max_genes": one.recipe.max_genes,
         "where": "in this package" if one.is_local else f"hf download {one.path}"}
        for one in KNOWN.values()
    ]  # fmt: skip
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(f"{row['name']:<21} {row['parameters']:>8}  {row['licence']:<16} {row['where']}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("cell2sen-demo"),
    quiet: Quiet = False,
) -> None:
    """Check, embed, annotate and perturb real blood cells with the embedded model, without network."""
    from cell2sen.cli import demo as run

    run.run(out, progress=not quiet)


def _gather(values: dict[str, Any]) -> Options:
    """The options of a command that all verbs take."""
    names = ("model", "layer", "symbols", "gene_table", "aliases", "organism", "max_genes", "templates", "revision",
             "dtype", "quantize", "device", "batch_size")  # fmt: skip
    options = {name: values[name] for name in names if values.get(name) is not None}
    _check_menus(dtype=options.get("dtype"), quantize=options.get("quantize"))
    options |= {"use_raw": values.get("raw", False), "offline": not values["online"], "progress": not values["quiet"]}
    return options  # type: ignore[return-value]


def _check_menus(*, dtype: str | None, quantize: str | None) -> None:
    menus = {"--dtype": (dtype, ("auto", "float32", "bfloat16", "float16")), "--quantize": (quantize, ("4bit", "8bit"))}
    for name, (value, menu) in menus.items():
        if value is not None and value not in menu:
            raise ValueError(f"{name} must be one of {', '.join(menu)}, found {value!r}")


def _known_suffix(out: Path, suffixes: tuple[str, ...]) -> None:
    if out.suffix not in suffixes:
        raise ValueError(f"{out} must end in {' or '.join(suffixes)}")


def _say(as_json: bool, text: str, **values: Any) -> None:
    if as_json:
        typer.echo(json.dumps(values, ensure_ascii=False))
    else:
        typer.echo(text, err=True)


if __name__ == "__main__":
    main()
