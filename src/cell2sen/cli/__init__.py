"""Command line: results in files, messages on stderr, JSON on stdout."""

from __future__ import annotations

import importlib.metadata
import platform
import signal
import sys
from typing import Annotated

import typer

from cell2sen import __version__
from cell2sen.cli import check, corpus, demo, evaluate, messages, predict, train
from cell2sen.cli.agents import server
from cell2sen.cli.jobs import app as page
from cell2sen.cli.jobs import atlas, export, fetch, integrate, screen, transfer
from cell2sen.cli.options import with_groups
from cell2sen.cli.tasks import bulk, gene_sets, samples, space, text
from cell2sen.data.names.errors import MENDABLE, text_of
from cell2sen.sentences.threads import wait_without_spinning

__all__ = ["app", "main"]

COMMANDS = (
    check.check,
    predict.sentences,
    predict.embed,
    integrate.integrate,
    predict.annotate,
    transfer.transfer,
    transfer.supporting_genes,
    predict.perturb,
    screen.screen,
    predict.generate,
    samples.generate_sample,
    text.ask,
    text.caption,
    text.interpret,
    gene_sets.name_gene_sets,
    gene_sets.list_gene_sets,
    bulk.pseudobulk,
    bulk.compose,
    space.space,
    corpus.corpus,
    atlas.plan,
    atlas.run,
    atlas.status,
    atlas.collect,
    train.train,
    evaluate.evaluate,
    export.export,
    fetch.fetch,
    fetch.models,
    page.app,
    server.mcp,
    demo.demo,
)

#: Exit code of typer after SIGINT.
INTERRUPTED = 130

#: Packages whose versions change results or the files that can be read, for --version.
STACK = ("torch", "transformers", "anndata", "scanpy", "numpy")

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
for command in COMMANDS:
    app.command()(with_groups(command))


def main() -> None:
    """Run the command line. Errors that a user can mend are one line on stderr, with exit code 1.

    Exit codes: 0 done, 1 an error in files, data or options, 2 wrong usage, 130 and 143 interrupted.
    """
    wait_without_spinning()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that temporary files are removed
    with messages.on_stderr():
        try:
            app(prog_name="cell2sen")
        except SystemExit as stop:
            if stop.code == INTERRUPTED:
                typer.secho("interrupted; nothing was written", fg="red", err=True)
            raise
        except MENDABLE as error:
            text = messages.FLAGS_OF_COMMAND.in_text(text_of(error))
            typer.secho(f"error: {text}", fg="red", err=True)
            sys.exit(1)


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"cell2sen {__version__}")
        stack = [f"Python {platform.python_version()}", *filter(None, map(_version, STACK))]
        typer.echo(f"with {', '.join(stack)}")
        raise typer.Exit


def _version(package: str) -> str:
    """Name and version of a package, read without importing it; empty if it is not installed."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


@app.callback(epilog="Exit codes: 0 done, 1 an error in files, data or options, 2 wrong usage, 130 interrupted.")
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the version, and those of PyTorch, transformers and AnnData.",
        ),
    ] = False,
) -> None:
    """Language models on single cells: a cell is a sentence of its genes, in descending expression."""
