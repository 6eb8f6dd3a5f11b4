"""Command line: results in files, messages on stderr, JSON on stdout."""

from __future__ import annotations

import logging
import signal
import sys
from typing import Annotated

import typer

from cell2sen import __version__
from cell2sen.cli import check, corpus, demo, evaluate, predict, train, transfer
from cell2sen.cli.options import with_groups
from cell2sen.cli.tasks import bulk, gene_sets, samples, space, text

__all__ = ["app", "main"]

COMMANDS = (
    check.check,
    predict.sentences,
    predict.embed,
    predict.annotate,
    transfer.transfer,
    transfer.supporting_genes,
    predict.perturb,
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
    train.train,
    evaluate.evaluate,
    check.models,
    demo.demo,
)

#: Exit code of typer after SIGINT.
INTERRUPTED = 130

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in COMMANDS:
    app.command()(with_groups(command))


def main() -> None:
    """Run the command line. Errors that a user can mend are one line on stderr, with exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("cell2sen").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that temporary files are removed
    try:
        app(prog_name="cell2sen")
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            typer.secho("interrupted; nothing was written", fg="red", err=True)
        raise
    except (ValueError, TypeError, KeyError, ImportError, OSError, NotImplementedError, MemoryError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        typer.secho(f"error: {message or type(error).__name__}", fg="red", err=True)
        sys.exit(1)


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"cell2sen {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Language models on single cells: a cell is a sentence of its genes, in descending expression."""
