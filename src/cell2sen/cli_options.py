"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path, typer.Argument(help="AnnData file (.h5ad or .zarr). Never changed.", show_default=False)]
Out = Annotated[Path, typer.Argument(help="File to write.", show_default=False)]
ModelName = Annotated[
    str, typer.Option("--model", "-m", help="Known name (see `cell2sen models`), directory or hub id.")
]
Layer = Annotated[str | None, typer.Option(help="Layer with the values to rank, instead of X.")]
Raw = Annotated[bool, typer.Option("--raw", help="Rank the values of adata.raw.")]
Symbols = Annotated[str | None, typer.Option(help="var column with gene symbols.")]
GeneTable = Annotated[str | None, typer.Option(help="Table from gene ids to symbols (CSV, TSV, Parquet).")]
Aliases = Annotated[str | None, typer.Option(help="Table from old to approved symbols (CSV, TSV, Parquet).")]
Organism = Annotated[str | None, typer.Option(help="Organism of all cells; read from the file by default.")]
MaxGenes = Annotated[int | None, typer.Option(help="Genes of a sentence at most.", min=1)]
Templates = Annotated[str | None, typer.Option(help="JSON file with other wording, or cell2sen, or cell2sentence.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub checkpoint.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Quantize = Annotated[str | None, typer.Option(help="4bit or 8bit.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
BatchSize = Annotated[int | None, typer.Option(help="Prompts in a batch; changes the speed only.", min=1)]
Online = Annotated[bool, typer.Option("--online", help="Fetch a missing checkpoint from the hub.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Json = Annotated[bool, typer.Option("--json", help="A summary in JSON on stdout.")]
Column = Annotated[str | None, typer.Option(help="obs column with one perturbation per cell.")]
Seed = Annotated[int, typer.Option(help="Seed of sampling.")]
Unguided = Annotated[bool, typer.Option("--unguided", help="Let the model write freely, and report what is no gene.")]
NGenes = Annotated[int | None, typer.Option(help="Genes of a predicted sentence at most.", min=1)]
Temperature = Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy.", min=0.0)]
