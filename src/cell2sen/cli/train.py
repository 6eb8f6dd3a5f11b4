"""The command ``cell2sen train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

#: Options that are no settings of a training, see :func:`cell2sen.cli.training_options.configure`.
NOT_SETTINGS = ("source", "out", "settings", "data_dir", "resume", "quiet", "as_json")

_Reward = Annotated[
    list[str] | None,
    typer.Option("--reward", help="Reinforcement learning with this reward, NAME or NAME=WEIGHT; may be repeated."),
]
_Extend = Annotated[
    bool, typer.Option("--gene-tokens", help="Give genes whole tokens, if the model writes them in pieces.")
]


def train(
    source: Annotated[Path, typer.Argument(help="Training file (.yaml, see docs/training.md) or AnnData file.")],
    out: Annotated[Path, typer.Argument(help="Directory to write the model to.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="What to fine-tune; nano for AnnData.")] = None,
    task: Annotated[list[str] | None, typer.Option("--task", "-t", help="May be repeated.")] = None,
    cell_type: Annotated[str | None, typer.Option(help="obs column of the label.")] = None,
    perturbation: Annotated[str | None, typer.Option(help="obs column of the perturbation.")] = None,
    control: Annotated[str | None, typer.Option(help="Its value in unperturbed cells.  [default: control]")] = None,
    context: Annotated[list[str] | None, typer.Option(help="obs column in which a cell and its control agree.")] = None,
    split_by: Annotated[str | None, typer.Option(help="obs column whose groups are held out whole.")] = None,
    hold_out: Annotated[list[str] | None, typer.Option(help="Group to hold out; may be repeated.")] = None,
    test: Annotated[float | None, typer.Option(help="Share to hold out.  [default: 0.1]")] = None,
    epochs: Annotated[float | None, typer.Option(help="Draws of a cell.  [default: 5–20, with rewards 1]")] = None,
    lora: Annotated[bool, typer.Option("--lora", help="Train low-rank adapters, which are merged at the end.")] = False,
    quantize: Annotated[str | None, typer.Option(help="4bit: hold the weights in four bits meanwhile (QLoRA).")] = None,
    packing: Annotated[bool, typer.Option("--packing", help="Put short samples together in one row.")] = False,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Train a new model.")] = False,
    tokenizer: Annotated[str | None, typer.Option(help="Of a new model: genes (whole) or bpe (in pieces).")] = None,
    hidden_size: Annotated[int | None, typer.Option(help="Of a new model.  [default: 256]")] = None,
    layers: Annotated[int | None, typer.Option(help="Of a new model.  [default: 4]")] = None,
    heads: Annotated[int | None, typer.Option(help="Of a new model.  [default: 4]")] = None,
    gene_tokens: _Extend = False,
    reward: _Reward = None,
    gene_sets: Annotated[str | None, typer.Option(help="GMT file with the gene set that rewards look at.")] = None,
    gene_set: Annotated[list[str] | None, typer.Option(help="Its name in that file; may be repeated.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of a training file.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the files in a training file.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer with the values to rank, instead of X.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Rank the values of adata.raw.")] = False,
    symbols: Annotated[str | None, typer.Option(help="var column with gene symbols.")] = None,
    organism: Annotated[str | None, typer.Option(help="Organism of all cells; read from the file by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A summary in JSON on stdout.")] = False,
) -> None:
    """Train or fine-tune a model on AnnData files."""
    options: dict[str, Any] = {key: value for key, value in locals().items() if key not in NOT_SETTINGS}
    options |= {"tasks": options.pop("task"), "use_raw": options.pop("raw")}
    from cell2sen import training
    from cell2sen.cli.training_options import configure

    config = configure(source, options, settings or ())
    base = data_dir or (Path() if source.suffix in (".yaml", ".yml") else source.parent)
    try:
        trained = training.train(config, out, base=base, resume=resume, progress=not quiet)
    except (KeyboardInterrupt, SystemExit):
        if training.can_resume(out):
            typer.echo(f"the same command with --resume goes on from the last checkpoint of {out}", err=True)
        raise
    if as_json:
        typer.echo(json.dumps({"file": str(out), "name": trained.name}, ensure_ascii=False))
    else:
        typer.echo(f"trained → {out}; use it with --model {out}", err=True)
