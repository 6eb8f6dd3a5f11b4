"""The command check: a file described, without running a model."""

from __future__ import annotations

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
    from cell2sen.checkpoints.lock import require_locked
    from cell2sen.model import resolve

    given = arguments(model)
    locked = given.pop("locked")
    resolved = resolve(**given)
    if locked:
        require_locked(resolved)
    result = cell2sen.check(file, resolved, perturbation_column=perturbation_column, **arguments(cells, output))
    typer.echo(result.to_json() if output.as_json else messages.FLAGS_OF_COMMAND.in_text(result.text))
    raise typer.Exit(0 if result.ok else 1)
