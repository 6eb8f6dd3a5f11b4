"""The commands fetch and models: checkpoints in directories under lock, and the table of the known ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cell2sen.cli.options import OutputOptions


def fetch(
    model: Annotated[str, typer.Argument(help="Name, Hugging Face id, directory to copy, or GGUF file to convert.")],
    to: Annotated[Path | None, typer.Option(help="The new directory. Default: the last part of the id.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hugging Face repository.")] = None,
    mirror: Annotated[
        Path | None, typer.Option(help="Folder with copies (OWNER/NAME); the network is not used.")
    ] = None,
    lock: Annotated[Path | None, typer.Option(help="Lock file whose hashes the files must have.")] = None,
    *,
    output: OutputOptions,
) -> None:
    """Download, copy or convert a checkpoint into a directory, with a lock file of the SHA-256 of every file."""
    from cell2sen.checkpoints import fetch as fetched
    from cell2sen.checkpoints.lock import read_lock
    from cell2sen.model import LOCK_FILE

    directory = fetched(model, to, revision=revision, mirror=mirror, locked=lock, **output.arguments())
    found = read_lock(directory / LOCK_FILE)
    output.summarise(
        f"{found.name}{f', revision {found.revision}' if found.revision else ''}: {len(found.files)} files, "
        f"{found.size / 1e9:.2f} GB → {directory}; use it with --model {directory} --locked",
        directory=str(directory),
        name=found.name,
        revision=found.revision,
        n_files=len(found.files),
        n_bytes=found.size,
    )


def models(as_json: Annotated[bool, typer.Option("--json", help="The list in JSON.")] = False) -> None:
    """List the models that have a name: architecture, size, licence, needed memory, and how to get them."""
    from cell2sen.checkpoints.table import known_checkpoints

    rows = known_checkpoints()
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    shown = {
        "name": "name", "architecture": "architecture", "parameters": "parameters", "licence": "licence",
        "gb": "weights GB", "memory_gb": "memory GB", "memory_4bit_gb": "in 4 bits", "where": "where",
    }  # fmt: skip
    table = [list(shown.values()), *([str(row[key]) for key in shown] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
