"""Commands that write text: ask, caption, interpret."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cell2sen.cli.options import (
    CellOptions,
    File,
    Group,
    Many,
    ModelOptions,
    OutputOptions,
    RunOptions,
    Seed,
    Temperature,
    arguments,
    check_suffix,
)

if TYPE_CHECKING:
    import pandas as pd

Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="File for the result: AnnData with the texts in obs and uns (.h5ad), or a table (.csv)."
    ),
]
NSamples = Annotated[int, typer.Option(help="Texts on each group, each on other cells.", min=1)]


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(Group):
    """Sampling."""

    temperature: Temperature = 0.7
    top_k: Annotated[int, typer.Option(help="Only the most probable tokens, this number of them.", min=1)] = 30
    top_p: Annotated[
        float, typer.Option(help="Only the most probable tokens, with this probability together.", min=0.0, max=1.0)
    ] = 0.9
    seed: Seed = 0
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Maximum length of a text, in tokens. Default: by command.", min=1)
    ] = None


def ask(
    file: File,
    question: Annotated[str, typer.Argument(help="Question on the cells.", show_default=False)],
    cells: Annotated[
        Many,
        typer.Option(
            "--cells",
            help="COLUMN=VALUE of obs: only these cells; any of several values of one column.",
        ),
    ] = None,
    sample_by: Annotated[
        Many, typer.Option(help="obs column: an answer for each of its groups. May be repeated.")
    ] = None,
    n_cells: Annotated[int, typer.Option(help="Cells that the model reads.", min=1)] = 10,
    n_samples: NSamples = 1,
    out: Out = None,
    *,
    matrix: CellOptions,
    sampling: SamplingOptions,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Answer a question on cells, with the genes that the answer names and whether the cells express them."""
    from cell2sen import tl

    chosen = _chosen(cells)
    _write(
        file,
        out,
        "ask",
        "cell2sen_answer",
        lambda adata: tl.ask(
            adata,
            question,
            cells=chosen,
            sample_by=sample_by or (),
            n_cells=n_cells,
            n_samples=n_samples,
            **arguments(matrix, sampling, model, run, output),
        ),
        output,
    )


def caption(
    file: File,
    cluster: Annotated[Many, typer.Option("--cluster", help="obs column of the clusters. May be repeated.")] = None,
    n_samples: NSamples = 1,
    out: Out = None,
    *,
    matrix: CellOptions,
    sampling: SamplingOptions,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Write a sentence on each cluster, from two of its cells."""
    from cell2sen import tl

    if not cluster:
        raise ValueError("name the obs column of the clusters (--cluster)")
    _write(
        file,
        out,
        "caption",
        "cell2sen_caption",
        lambda adata: tl.caption(
            adata, cluster, n_samples=n_samples, **arguments(matrix, sampling, model, run, output)
        ),
        output,
    )


def interpret(
    file: File,
    sample_by: Annotated[
        Many, typer.Option(help="obs column that defines samples, such as the donor. May be repeated.")
    ] = None,
    n_cells: Annotated[int, typer.Option(help="Cells that the model reads, 5 to 20.", min=1)] = 10,
    n_samples: NSamples = 1,
    out: Out = None,
    *,
    matrix: CellOptions,
    sampling: SamplingOptions,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Write a summary of each sample of cells, like the abstract of a study."""
    from cell2sen import tl

    if not sample_by:
        raise ValueError("name the obs columns that define samples (--sample-by)")
    _write(
        file,
        out,
        "interpret",
        "cell2sen_summary",
        lambda adata: tl.interpret(
            adata, sample_by, n_cells=n_cells, n_samples=n_samples, **arguments(matrix, sampling, model, run, output)
        ),
        output,
    )


def _write(
    file: Path,
    out: Path | None,
    task: str,
    key: str,
    write: Callable[[Any], pd.DataFrame],
    output: OutputOptions,
) -> None:
    """Write texts into a file, if there is one, and print them."""
    from cell2sen.data.files.opening import open_anndata
    from cell2sen.data.output import complete_file, write_results

    if out is not None:
        check_suffix(out, ".h5ad", ".csv")
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(complete_file(out, file)) if out is not None else None
        adata = stack.enter_context(open_anndata(file))
        table = write(adata)
        if temporary is not None and out is not None and out.suffix == ".csv":
            table.to_csv(temporary)
        elif temporary is not None:
            write_results(file, temporary, adata, obs=[key, f"{key}_sample"])
    if output.as_json:
        records = table.reset_index().to_dict(orient="records")
        typer.echo(json.dumps({"task": task, "texts": records}, ensure_ascii=False))
        return
    for name, row in table.iterrows():
        typer.echo(_readable(str(name), row))


def _readable(name: str, row: pd.Series[Any]) -> str:
    """A text with the name of its sample, and its genes."""
    lines = [f"{name} ({row['n_cells']} cells): {row['text']}" + ("" if row["complete"] else " […]")]
    lines += [
        f"  {label}: {row[state]}"
        for state, label in (
            ("present", "expressed by these cells"),
            ("absent", "not expressed by these cells"),
            ("unmeasured", "not in the data"),
        )
        if row[state]
    ]
    return "\n".join(lines)


def _chosen(cells: Many) -> dict[str, list[str]] | None:
    """Obs column → its values."""
    chosen: dict[str, list[str]] = {}
    for text in cells or ():
        column, sign, value = text.partition("=")
        if not sign or not column.strip():
            raise ValueError(f"--cells takes COLUMN=VALUE, found {text!r}")
        chosen.setdefault(column.strip(), []).append(value.strip())
    return chosen or None
