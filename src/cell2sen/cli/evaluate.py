"""`cell2sen evaluate`: two files in; scores, a table and a report out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Many = list[str] | None


def evaluate(
    predicted: Annotated[Path, typer.Argument(help="Predicted cells (.h5ad), of cell2sen or another tool.")],
    real: Annotated[Path, typer.Argument(help="Real cells (.h5ad), for perturbations with their controls.")],
    report: Annotated[Path | None, typer.Option(help="One HTML file with tables and figures.")] = None,
    table: Annotated[Path | None, typer.Option(help="All scores as .csv or .json.")] = None,
    cell_eval: Annotated[
        Path | None, typer.Option(help="The scores of Arc's cell-eval, which must be installed, as .csv.")
    ] = None,
    task: Annotated[
        Literal["perturb", "generate", "annotate"] | None, typer.Option(help="Seen by itself mostly.")
    ] = None,
    perturbation: Annotated[
        str, typer.Option(help="obs column of the real cells with the perturbation.")
    ] = "perturbation",
    predicted_perturbation: Annotated[str | None, typer.Option(help="The same of the predicted cells.")] = None,
    control: Annotated[Many, typer.Option(help="Its value in control cells.  [default: control]")] = None,
    controls: Annotated[str, typer.Option(help="shared or split between truth and prediction.")] = "shared",
    context: Annotated[Many, typer.Option(help="obs column that a cell and its controls share.")] = None,
    label: Annotated[Many, typer.Option(help="obs column with the true label.  [default: cell_type]")] = None,
    predicted_label: Annotated[str | None, typer.Option(help="obs column with the predicted label.")] = None,
    rename: Annotated[Many, typer.Option(help="NAME=NAME: of the prediction = of the real cells.")] = None,
    train_cells: Annotated[Path | None, typer.Option("--train", help="Cells that the model was trained on.")] = None,
    train_names: Annotated[Path | None, typer.Option(help="Their names (.txt, .json or .h5ad).")] = None,
    embedding: Annotated[str, typer.Option(help="pca, or a key of obsm on both sides.")] = "pca",
    encoder: Annotated[str | None, typer.Option(help="Text encoder for BERTScore: directory or hub id.")] = None,
    metric: Annotated[Many, typer.Option(help="These metrics only; may be repeated.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of the predicted cells, instead of X.")] = None,
    real_layer: Annotated[str | None, typer.Option(help="Layer of the real cells, instead of X.")] = None,
    scale: Annotated[str, typer.Option(help="Of the predicted values: auto, counts, cp10k or log1p.")] = "auto",
    real_scale: Annotated[str, typer.Option(help="The same of the real values.")] = "auto",
    symbols: Annotated[str | None, typer.Option(help="var column with gene symbols.")] = None,
    case: Annotated[str, typer.Option(help="Case of gene symbols: auto, keep or upper.")] = "auto",
    allow_leaks: Annotated[bool, typer.Option("--allow-leaks", help="Report leaks instead of failing.")] = False,
    resamples: Annotated[int, typer.Option(help="Bootstrap samples of cells.", min=0)] = 100,
    seed: Annotated[int, typer.Option(help="Of halves, samples and bootstrap.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything in JSON on stdout.")] = False,
) -> None:
    """Score predictions beside baselines and ceiling, with intervals and a leak check."""
    from cell2sen.evaluation import cell_eval as handover
    from cell2sen.evaluation import evaluate as evaluation

    for out, suffixes in ((report, (".html",)), (table, (".csv", ".json")), (cell_eval, (".csv",))):
        if out is not None and out.suffix not in suffixes:
            raise ValueError(f"{out} must end in {' or '.join(suffixes)}")
    options: dict[str, Any] = {
        "perturbation": perturbation, "predicted_perturbation": predicted_perturbation,
        "control": control or "control", "controls": controls, "context": context or (),
        "label": label or "cell_type", "predicted_label": predicted_label, "rename": _names(rename or ()),
        "train": train_cells, "train_names": train_names, "embedding": embedding, "encoder": encoder,
        "layer": layer, "real_layer": real_layer, "scale": scale, "real_scale": real_scale, "symbols": symbols,
        "case": case, "resamples": resamples, "seed": seed,
    }  # fmt: skip
    found = evaluation.evaluate(
        predicted, real, task=task, metrics=metric, leaks="report" if allow_leaks else "raise",
        progress=not quiet, **options,
    )  # fmt: skip
    if table is not None:
        (found.to_json if table.suffix == ".json" else found.to_csv)(table)
    if report is not None:
        found.report(report)
    if cell_eval is not None:
        from cell2sen.data.output import complete

        with complete(cell_eval, predicted, real) as temporary:
            handover.cell_eval(predicted, real, **options).to_csv(temporary, index=False)
    typer.echo(found.to_json() if as_json else str(found))


def _names(pairs: Sequence[str]) -> dict[str, str] | None:
    if wrong := [one for one in pairs if "=" not in one]:
        raise ValueError(f"--rename takes NAME=NAME (of the prediction = of the real cells), found {wrong[0]!r}")
    found = dict(one.split("=", 1) for one in pairs)
    return {name.strip(): other.strip() for name, other in found.items()} or None
