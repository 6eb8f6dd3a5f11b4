"""The command train: fine-tune a model, adapt it to unlabelled cells, improve it with rewards, or train a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cell2sen.cli.options import Group, Many, MatrixOptions, OutputOptions, arguments


@dataclass(frozen=True, kw_only=True)
class ColumnOptions(Group):
    """Columns of an AnnData file."""

    task: Annotated[
        Many, typer.Option("--task", "-t", help="Task to learn. May be repeated. Default: as the columns allow.")
    ] = None
    cell_type: Annotated[str | None, typer.Option(help="obs column of the cell type.")] = None
    label: Annotated[
        Many, typer.Option(help="obs column of another label (tissue, disease, sex). May be repeated.")
    ] = None
    number: Annotated[Many, typer.Option(help="obs column of a number (age, dose, time). May be repeated.")] = None
    joint: Annotated[
        bool, typer.Option("--joint", help="Answer all --label and --number columns in one text, in this order.")
    ] = False
    prompt_context: Annotated[
        Many, typer.Option(help="obs column whose values are in the prompts (tissue, donor). May be repeated.")
    ] = None
    column: Annotated[
        Many,
        typer.Option(
            help="SLOT=COLUMN: obs column of a task's slot, such as caption=text, tissue=tissue, sample=donor. May be "
            "repeated."
        ),
    ] = None
    perturbation: Annotated[str | None, typer.Option(help="obs column of the perturbation.")] = None
    control: Annotated[
        Many,
        typer.Option(
            help="Value of that column in control cells; '': cells without a value. May be repeated. Default: control."
        ),
    ] = None
    context: Annotated[
        Many, typer.Option(help="obs column with the same value in a cell and its control. May be repeated.")
    ] = None
    split_by: Annotated[str | None, typer.Option(help="obs column whose groups are held out whole; space: blocks.")] = (
        None
    )
    hold_out: Annotated[Many, typer.Option(help="Group to hold out. May be repeated. Default: a random share.")] = None
    test: Annotated[float | None, typer.Option(help="Share of cells or groups to hold out. Default: 0.1.")] = None


@dataclass(frozen=True, kw_only=True)
class SpaceOptions(Group):
    """Cells in space."""

    niche: Annotated[str | None, typer.Option(help="obs column of the niche (layer, region).")] = None
    radius: Annotated[
        float | None, typer.Option(help="Neighbours are cells within this distance. Default: the stored graph.")
    ] = None
    nearest: Annotated[int | None, typer.Option(help="Neighbours are this number of nearest cells.", min=1)] = None
    section: Annotated[str | None, typer.Option(help="obs column of the section (slide).")] = None


@dataclass(frozen=True, kw_only=True)
class FineTuningOptions(Group):
    """Fine-tuning."""

    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model to fine-tune. Default for an AnnData file: nano.")
    ] = None
    epochs: Annotated[
        float | None, typer.Option(help="Draws of each cell. Default: 5 to 20, more for few cells; 1 with rewards.")
    ] = None
    lora: Annotated[bool, typer.Option("--lora", help="Train low-rank adapters, which are merged at the end.")] = False
    quantize: Annotated[
        Literal["4bit"] | None, typer.Option(help="Load the weights in 4 bits for the training (QLoRA).")
    ] = None
    packing: Annotated[bool, typer.Option("--packing", help="Put several samples in a row: less padding.")] = False
    gene_tokens: Annotated[
        bool, typer.Option("--gene-tokens", help="Add a token for each gene that the model writes as several tokens.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class NewModelOptions(Group):
    """New model."""

    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Train a new model.")] = False
    tokenizer: Annotated[
        Literal["genes", "bpe"] | None, typer.Option(help="One token per gene, or pieces of words. Default: genes.")
    ] = None
    hidden_size: Annotated[int | None, typer.Option(help="Size of the hidden states. Default: 256.")] = None
    layers: Annotated[int | None, typer.Option(help="Number of layers. Default: 4.")] = None
    heads: Annotated[int | None, typer.Option(help="Attention heads of a layer. Default: 4.")] = None


@dataclass(frozen=True, kw_only=True)
class RewardOptions(Group):
    """Reinforcement learning."""

    reward: Annotated[
        Many, typer.Option("--reward", help="Reward of written sentences, NAME or NAME=WEIGHT. May be repeated.")
    ] = None
    gene_sets: Annotated[str | None, typer.Option(help="GMT file with the gene sets that rewards compare.")] = None
    gene_set: Annotated[Many, typer.Option(help="Name of a set in that file. May be repeated.")] = None


@dataclass(frozen=True, kw_only=True)
class AdaptationOptions(Group):
    """Adaptation to unlabelled cells."""

    adapt: Annotated[
        bool, typer.Option("--adapt", help="Go on training on the cells of the file, without labels: for embeddings.")
    ] = False
    minutes: Annotated[float | None, typer.Option(help="Time of the training. Default: 5.")] = None
    steps: Annotated[
        int | None, typer.Option(help="Number of steps instead: the same number gives the same model again.", min=1)
    ] = None


def train(
    source: Annotated[
        Path,
        typer.Argument(
            help="Training file (.yaml, see docs/how-to/train.md), file of cells, or gene sets (.gmt).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Directory to write the model to.", show_default=False)],
    settings: Annotated[
        Many, typer.Option("--set", help="KEY=VALUE of a training file, as optimiser.max_steps=100. May be repeated.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the files that a training file names.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    *,
    columns: ColumnOptions,
    space: SpaceOptions,
    matrix: MatrixOptions,
    fine_tuning: FineTuningOptions,
    new_model: NewModelOptions,
    rewards: RewardOptions,
    adaptation: AdaptationOptions,
    output: OutputOptions,
) -> None:
    """Fine-tune a model on AnnData files, adapt it to unlabelled cells, improve it with rewards, or train a new one."""
    from cell2sen import training
    from cell2sen.training.config.options import configure
    from cell2sen.training.processes import is_main

    options: dict[str, Any] = arguments(columns, space, matrix, fine_tuning, new_model, rewards)
    if adaptation.adapt:
        if resume:
            raise ValueError("--adapt takes minutes and has no checkpoints to resume from: leave out --resume")
        _adapt(source if data_dir is None else data_dir / source, out, adaptation, options, settings or (), output)
        return
    if given := sorted(set(arguments(adaptation)) - {"adapt"}):
        raise ValueError(f"--{given[0]} is for --adapt; other trainings take --set optimiser.max_steps=100")
    config = configure(source, options, settings or ())
    base = data_dir or (Path() if source.suffix in (".yaml", ".yml") else source.parent)
    try:
        model = training.train(config, out, base=base, resume=resume, progress=not output.quiet)
    except (KeyboardInterrupt, SystemExit):
        if training.can_resume(out):
            typer.echo(f"the same command with --resume continues from the last checkpoint of {out}", err=True)
        raise
    if is_main():
        output.summarise(f"trained → {out}; use it with --model {out}", file=str(out), name=model.name)


def _adapt(
    source: Path,
    out: Path,
    adaptation: AdaptationOptions,
    options: dict[str, Any],
    settings: Sequence[str],
    output: OutputOptions,
) -> None:
    """Adapt a model; options of trainings on labels are refused."""
    from cell2sen import training
    from cell2sen.training.config.training_file import parse_yaml

    given = {name: value for name, value in options.items() if value is not None and value is not False}
    columns = given.pop("prompt_context", None)
    if source.suffix in (".yaml", ".yml", ".gmt"):
        raise ValueError(f"--adapt takes a file of cells, found {source}")
    allowed = {"model", "layer", "use_raw", "symbols", "organism", "scale"}
    if unused := sorted(set(given) - allowed):
        raise ValueError(f"--adapt learns from the genes of the cells alone: leave out --{unused[0].replace('_', '-')}")
    if wrong := [setting for setting in settings if "=" not in setting]:
        raise ValueError(f"--set takes KEY=VALUE, found {wrong[0]!r}")
    pairs = (setting.partition("=") for setting in settings)
    model = training.adapt(
        source,
        out,
        minutes=adaptation.minutes,
        steps=adaptation.steps,
        settings={key: parse_yaml(value) for key, _, value in pairs},
        progress=not output.quiet,
        **({"context": columns} if columns else {}),
        **given,
    )
    record = model.metadata["adaptation"]
    losses = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in record["losses"]["after"].items()]
    output.summarise(
        f"adapted in {record['steps']:,} steps ({', '.join(losses)}) → {out}; use it with --model {out}",
        file=str(out),
        name=model.name,
        steps=record["steps"],
        losses=record["losses"],
    )
