"""The command corpus: pairs of many files and tasks as Parquet files, to train on later."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cell2sen.cli.options import OutputOptions


def corpus(
    settings: Annotated[
        Path, typer.Argument(help="Settings of the corpus (.yaml, see docs/how-to/corpus.md).", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the files that the settings name.")] = None,
    *,
    output: OutputOptions,
) -> None:
    """Write training pairs of many files and tasks. The same command continues a build that was interrupted."""
    from cell2sen.training.corpus.build import build_corpus
    from cell2sen.training.corpus.settings import read_corpus_config

    config = read_corpus_config(settings)
    try:
        folder = build_corpus(config, out, base=data_dir or settings.parent, progress=not output.quiet)
    except (KeyboardInterrupt, SystemExit):
        if (unfinished := out.with_name(f"{out.name}.part")).exists():
            typer.echo(f"{unfinished} keeps what is done: the same command continues it", err=True)
        raise
    shards = len(list(folder.glob("*.parquet")))
    output.summarise(f"{shards} shards → {folder}; {folder / 'README.md'} counts them", file=str(folder), shards=shards)
