"""Commands that run no model: check, models."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cell2sen.cli import messages
from cell2sen.cli.options import CellOptions, File, ModelOptions, OutputOptions, PerturbationColumn, arguments


def check(
    file: File,
    perturbation_column: PerturbationColumn = None,
    *,
    cells: CellOptions,
    model: ModelOptions,
    output: OutputOptions,
) -> None:
    """Describe a file and list its errors and warnings, without loading a model. Exit code 1 if there are errors."""
    import cell2sen
    from cell2sen.model import resolve

    resolved = resolve(**arguments(model))
    result = cell2sen.check(file, resolved, perturbation_column=perturbation_column, **arguments(cells, output))
    typer.echo(result.to_json() if output.as_json else messages.FLAGS_OF_COMMAND.in_text(result.text))
    raise typer.Exit(0 if result.ok else 1)


def models(as_json: Annotated[bool, typer.Option("--json", help="The list in JSON.")] = False) -> None:
    """List the models that have a name, and how to get them."""
    from cell2sen.model import KNOWN

    rows = [
        {
            "name": model.name,
            "parameters": model.parameters,
            "licence": model.licence,
            "hub_id": "" if model.is_local else model.path,
            "max_genes": model.recipe.max_genes,
            "where": "in this package" if model.is_local else f"hf download {model.path}",
        }
        for model in KNOWN.values()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(f"{row['name']:<21} {row['parameters']:>8}  {row['licence']:<16} {row['where']}")
