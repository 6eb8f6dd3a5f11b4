"""The command export: a submission to the Virtual Cell Challenge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cell2sen.cli.options import OutputOptions, check_suffix


def export(
    kind: Annotated[Literal["vcc"], typer.Argument(help="vcc: Virtual Cell Challenge.")],
    predicted: Annotated[Path, typer.Argument(help="Predicted cells with counts (perturb --counts).")],
    out: Annotated[Path, typer.Argument(help="The submission (.h5ad).", show_default=False)],
    genes: Annotated[Path, typer.Option(help="Text file with the genes of the challenge, one a line, in its order.")],
    cells: Annotated[Path, typer.Option(help="Table with the columns target and n_cells (.csv).")],
    perturbation: Annotated[str, typer.Option(help="obs column with the target of each cell.")] = "perturbation",
    control: Annotated[str, typer.Option(help="The challenge's name of controls.")] = "non-targeting",
    *,
    output: OutputOptions,
) -> None:
    """Write predicted counts in the form of the challenge, after a check of its rules."""
    import anndata
    import pandas as pd

    from cell2sen.data.output import complete_file
    from cell2sen.evaluation.challenge.submission import submission

    check_suffix(out, ".h5ad")
    table = pd.read_csv(cells, dtype={"target": str}, keep_default_na=False)
    if missing := {"target", "n_cells"} - set(table.columns):
        raise ValueError(f"--cells needs the columns target and n_cells, {sorted(missing)} is missing in {cells}")
    names = [line.strip() for line in genes.read_text().splitlines() if line.strip()]
    n_cells = dict(zip(table["target"], table["n_cells"].astype(int), strict=True))
    with complete_file(out, predicted, genes, cells) as temporary:
        result = submission(anndata.read_h5ad(predicted), names, n_cells, perturbation=perturbation, control=control)
        result.write_h5ad(temporary, compression="gzip")
    output.summarise(
        f"{result.n_obs:,} cells of {len(n_cells)} targets × {result.n_vars:,} genes → {out}",
        file=str(out),
        n_cells=result.n_obs,
        n_targets=len(n_cells),
    )
