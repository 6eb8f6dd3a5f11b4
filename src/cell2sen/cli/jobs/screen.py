"""The command screen: perturbations, edits or measured groups, ranked by their shift towards a goal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cell2sen.cli.options import (
    CellOptions,
    File,
    Group,
    Many,
    ModelOptions,
    OutputOptions,
    PerturbationColumn,
    RunOptions,
    Seed,
    arguments,
    check_suffix,
)

# Copies of menus, as in cell2sen.cli.options.
Space = Literal["auto", "expression", "embedding", "label"]
Towards = Literal["up", "down"]


@dataclass(frozen=True, kw_only=True)
class GoalOptions(Group):
    """Goal."""

    gene_set: Annotated[
        str | None, typer.Option(help="Genes, separated by semicolons, or with --gmt the name of a set.")
    ] = None
    gmt: Annotated[Path | None, typer.Option(help="File of gene sets.")] = None
    from_group: Annotated[str | None, typer.Option("--from", help="Direction: the group of cells it begins at.")] = None
    to_group: Annotated[str | None, typer.Option("--to", help="Direction: the group it leads to.")] = None
    groupby: Annotated[str | None, typer.Option(help="obs column of these groups.")] = None
    label: Annotated[str | None, typer.Option(help="A label of the model.")] = None
    labels: Annotated[
        str | None, typer.Option(help="Labels it is one of, separated by semicolons. Default: the model's.")
    ] = None
    space: Annotated[
        Space, typer.Option(help="Where a shift is measured. auto: edits in the embedding, others in expression.")
    ] = "auto"
    towards: Annotated[Towards, typer.Option(help="Rank 1: the largest effect, or the most negative one.")] = "up"

    def arguments(self) -> dict[str, Any]:
        """Options that are set, under their names in Python."""
        values = super().arguments()
        ends = values.pop("from_group", None), values.pop("to_group", None)
        if (ends[0] is None) != (ends[1] is None):
            raise ValueError("a direction needs both --from and --to")
        return values | ({} if ends[0] is None else {"direction": ends})


@dataclass(frozen=True, kw_only=True)
class ContextOptions(Group):
    """Contexts and null."""

    screen_by: Annotated[
        str | None, typer.Option(help="obs column whose groups are screened each by itself, such as the cell type.")
    ] = None
    screen_in: Annotated[Many, typer.Option(help="Groups to screen. May be repeated. Default: all.")] = None
    contrast: Annotated[str | None, typer.Option(help="'A; B': the effect in A minus that in B, ranked as well.")] = (
        None
    )
    donor: Annotated[str | None, typer.Option(help="obs column of donors, over which intervals are.")] = None
    n_cells: Annotated[int, typer.Option(help="Cells of each group for edits and predictions.", min=1)] = 200
    min_cells: Annotated[int, typer.Option(help="Fewest cells of a group, and with a gene of 'all'.", min=1)] = 10
    n_null: Annotated[
        int | None, typer.Option(help="Random genes of the null. Default: 200 edits, or 999 goals.", min=0)
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Options that are set, under their names in Python."""
        values = super().arguments()
        if self.contrast is not None:
            values["contrast"] = [name.strip() for name in self.contrast.split(";")]
        return values


def screen(
    file: File,
    out: Annotated[Path, typer.Argument(help="Ranked table (.parquet, .csv), or a figure (.png, .pdf, .svg).")],
    perturbation: Annotated[
        Many, typer.Option("--perturbation", "-p", help="Perturbation of the model. May be repeated.")
    ] = None,
    delete: Annotated[
        Many, typer.Option(help="Gene that is deleted; A+B: both; all: every gene of the cells. May be repeated.")
    ] = None,
    overexpress: Annotated[Many, typer.Option(help="Gene that is moved to the front. May be repeated.")] = None,
    measured: Annotated[
        bool, typer.Option("--measured", help="Score the groups of --perturbation-column against its controls.")
    ] = False,
    perturbation_column: PerturbationColumn = None,
    control: Annotated[
        Many, typer.Option(help="Name of the controls in the file. May be repeated. Default: usual names.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Folder of finished parts, to continue from after an interruption.")
    ] = None,
    seed: Seed = 0,
    *,
    goal: GoalOptions,
    contexts: ContextOptions,
    cells: CellOptions,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Rank perturbations, edits of cells or measured groups by how far they shift cells towards a goal."""
    from cell2sen import pl, tl
    from cell2sen.data.files.opening import open_anndata
    from cell2sen.data.names.text import list_of_names
    from cell2sen.data.output import complete_file

    check_suffix(out, ".parquet", ".csv", ".png", ".pdf", ".svg")

    def names(texts: Many) -> list[str]:
        return [name for text in texts or () for name in list_of_names(text)]

    with complete_file(out, file) as temporary, open_anndata(file) as adata:
        table = tl.screen(
            adata,
            perturbations=names(perturbation),
            delete=names(delete),
            overexpress=names(overexpress),
            measured=measured,
            perturbation_column=perturbation_column,
            control=control or "auto",
            resume=resume,
            seed=seed,
            **arguments(goal, contexts, cells, model, run, output),
        )
        record = adata.uns["cell2sen"]["screen"]
        if out.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        elif out.suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            last = str(table["context"].iloc[-1])
            figure: Any = pl.screen(table, context=last, title=f"{record['goal']['name']}: {last}").figure
            figure.savefig(temporary, dpi=200, bbox_inches="tight")
    found = int((table["fdr"] < 0.05).sum())
    lines = [
        f"{len(table):,} scores towards {record['goal']['name']} ({record['unit']}), {found} with fdr < 0.05 → {out}"
    ]
    tops = {}
    for context, rows in table.groupby("context", sort=False):
        top = rows.head(5)
        tops[str(context)] = dict(zip(top["item"], top["effect"].round(6).tolist(), strict=True))
        lines.append(f"{context}: {', '.join(f'{name} {value:+.3g}' for name, value in tops[str(context)].items())}")
    output.summarise("\n  ".join(lines), file=str(out), n_scores=len(table), n_found=found, top=tops)
