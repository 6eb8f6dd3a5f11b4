"""The command evaluate: scores, a table and a report from two files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cell2sen.cli.options import Group, Many, OutputOptions, Scale, Seed, arguments, check_suffix


@dataclass(frozen=True, kw_only=True)
class ColumnOptions(Group):
    """Columns and names."""

    perturbation: Annotated[str, typer.Option(help="obs column of the real cells with the perturbation.")] = (
        "perturbation"
    )
    predicted_perturbation: Annotated[
        str | None, typer.Option(help="The same column of the predicted cells, if its name differs.")
    ] = None
    control: Annotated[
        Many,
        typer.Option(
            help="Value of that column in control cells; '': cells without a value. May be repeated. Default: control."
        ),
    ] = None
    context: Annotated[
        Many, typer.Option(help="obs column with the same value in a cell and its controls. May be repeated.")
    ] = None
    label: Annotated[
        Many,
        typer.Option(
            help="obs column with the true label, number or text. Repeated: labels that must all be right, or several "
            "reference texts. Default: cell_type."
        ),
    ] = None
    predicted_label: Annotated[
        Many, typer.Option(help="obs column with the predictions, one for each --label. Default: as cell2sen names it.")
    ] = None
    rename: Annotated[
        Many, typer.Option(help="PREDICTED=REAL: names of one perturbation or label in the two files. May be repeated.")
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Options that are set, under their names in Python."""
        return super().arguments() | {"rename": _names(self.rename or ())}


@dataclass(frozen=True, kw_only=True)
class ValueOptions(Group):
    """Expression values."""

    layer: Annotated[str | None, typer.Option(help="Layer of the predicted cells, or raw. Default: X.")] = None
    real_layer: Annotated[str | None, typer.Option(help="Layer of the real cells, or raw. Default: X.")] = None
    scale: Annotated[Scale, typer.Option(help="Scale of the predicted values.")] = "auto"
    real_scale: Annotated[Scale, typer.Option(help="Scale of the real values.")] = "auto"
    symbols: Annotated[str | None, typer.Option(help="var column with gene symbols. Default: the index.")] = None
    case: Annotated[
        Literal["auto", "keep", "upper"], typer.Option(help="Gene symbols as they are, or in upper case.")
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions(Group):
    """Training cells, controls and sampling."""

    train: Annotated[
        Path | None, typer.Option(help="Cells (.h5ad) or gene sets (.gmt) that the model was trained on.")
    ] = None
    train_names: Annotated[
        Path | None, typer.Option(help="Names of these cells, for the leak check (.txt, .json or .h5ad).")
    ] = None
    controls: Annotated[
        Literal["shared", "split"],
        typer.Option(help="Both sides use the same controls, or one half of them each."),
    ] = "shared"
    embedding: Annotated[str, typer.Option(help="pca, or a key of obsm in both files.")] = "pca"
    encoder: Annotated[str | None, typer.Option(help="Text encoder for BERTScore: directory or Hugging Face id.")] = (
        None
    )
    resamples: Annotated[int, typer.Option(help="Bootstrap samples of cells. 0: no intervals.", min=0)] = 100
    seed: Seed = 0


def evaluate(
    predicted: Annotated[
        Path,
        typer.Argument(
            help="Predicted cells or embedded profiles (.h5ad), from cell2sen or another tool; gene sets (.csv, .gmt).",
            show_default=False,
        ),
    ],
    real: Annotated[
        Path,
        typer.Argument(
            help="Real cells (.h5ad); for perturbations with their controls. Real gene sets (.gmt).", show_default=False
        ),
    ],
    report: Annotated[Path | None, typer.Option(help="File for a report with tables and figures (.html).")] = None,
    table: Annotated[Path | None, typer.Option(help="File for all scores (.csv or .json).")] = None,
    cell_eval: Annotated[
        Path | None, typer.Option(help="File for the scores of Arc's cell-eval, which must be installed (.csv).")
    ] = None,
    cell_eval2: Annotated[
        Path | None,
        typer.Option(help="File for the scores of Arc's cell-eval2 beside its baseline and replicate (.csv). Counts."),
    ] = None,
    task: Annotated[
        Literal["perturb", "generate", "annotate", "number", "text", "integrate", "name_gene_set", "list_gene_set"]
        | None,
        typer.Option(help="What was predicted. Default: read from files that cell2sen wrote."),
    ] = None,
    metric: Annotated[Many, typer.Option(help="Compute this metric only. May be repeated.")] = None,
    ontology: Annotated[
        bool, typer.Option("--ontology", help="Compare cell types in the Cell Ontology, too: right at a common parent.")
    ] = False,
    allow_leaks: Annotated[bool, typer.Option("--allow-leaks", help="Report leaks instead of stopping.")] = False,
    *,
    columns: ColumnOptions,
    values: ValueOptions,
    comparison: ComparisonOptions,
    output: OutputOptions,
) -> None:
    """Score predictions beside baselines and a ceiling, with confidence intervals and leak checks."""
    import cell2sen

    for path, suffixes in (
        (report, (".html",)),
        (table, (".csv", ".json")),
        (cell_eval, (".csv",)),
        (cell_eval2, (".csv",)),
    ):
        if path is not None:
            check_suffix(path, *suffixes)
    shared = arguments(columns, values, comparison)
    evaluation = cell2sen.evaluate(
        predicted,
        real,
        task=task,
        metrics=metric or None,
        ontology=ontology,
        leaks="report" if allow_leaks else "raise",
        progress=not output.quiet,
        **shared,
    )
    if cell_eval2 is not None:
        evaluation = replace(evaluation, challenge=_cell_eval2(predicted, real, cell_eval2, columns))
    if table is not None:
        (evaluation.to_json if table.suffix == ".json" else evaluation.to_csv)(table)
    if report is not None:
        evaluation.report(report)
    if cell_eval is not None:
        from cell2sen.data.output import complete_file

        with complete_file(cell_eval, predicted, real) as temporary:
            cell2sen.cell_eval(predicted, real, **shared).to_csv(temporary, index=False)
    typer.echo(evaluation.to_json() if output.as_json else str(evaluation))


def _cell_eval2(predicted: Path, real: Path, out: Path, columns: ColumnOptions) -> Any:
    """Scores of cell-eval2, also written as a table."""
    import cell2sen
    from cell2sen.data.output import complete_file

    if (
        columns.rename
        or columns.predicted_perturbation
        or len(columns.control or ()) > 1
        or len(columns.context or ()) > 1
    ):
        raise ValueError(
            "--cell-eval2 takes one --control and one --context, the same names in both files, and no --rename or "
            "--predicted-perturbation"
        )
    with complete_file(out, predicted, real) as temporary:
        scores = cell2sen.cell_eval2(
            predicted,
            real,
            perturbation=columns.perturbation,
            control=(columns.control or ["control"])[0],
            context=columns.context[0] if columns.context else None,
        )
        scores.to_csv(temporary, index=False)
    return scores


def _names(pairs: Sequence[str]) -> dict[str, str] | None:
    """Name in the predicted file → name in the real one."""
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise ValueError(f"--rename takes PREDICTED=REAL (names in the two files), found {wrong[0]!r}")
    names = dict(pair.split("=", 1) for pair in pairs)
    return {name.strip(): other.strip() for name, other in names.items()} or None
