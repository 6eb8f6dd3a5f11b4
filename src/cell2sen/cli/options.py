"""Options that several commands share, and the decorator that adds them to a command."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from cell2sen.cli import messages

# Copies of menus: importing the modules that define them takes longer than showing the help.
# tests/cli/test_options.py compares them.
Pooling = Literal["mean", "genes", "last"]
Readout = Literal["auto", "expected", "sentence"]
Dtype = Literal["auto", "bfloat16", "float32", "float16"]
Quantize = Literal["4bit", "8bit"]
Scale = Literal[
    "auto", "counts", "cp10k", "cpm", "normalised", "log1p", "log1p_cpm", "ln", "log2", "log10", "sqrt", "arcsinh"
]
Ties = Literal["hash", "random", "alphabetical"]

Many = list[str] | None
File = Annotated[
    Path,
    typer.Argument(
        help="File of cells: .h5ad, .zarr, .h5mu, 10x .h5, .loom, .csv, folder of matrix.mtx. Never changed.",
        show_default=False,
    ),
]
PerturbationColumn = Annotated[str | None, typer.Option(help="obs column with the perturbation of each cell.")]
NGenes = Annotated[int | None, typer.Option(help="Maximum number of genes in a predicted sentence.", min=1)]
Unguided = Annotated[bool, typer.Option("--unguided", help="Write free text, not only genes of the data, each once.")]
Temperature = Annotated[float, typer.Option(help="Sampling temperature. 0: always the most probable gene.", min=0.0)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")]
Seed = Annotated[int, typer.Option(help="Seed of the random numbers.")]


class Group:
    """Options that are listed together in the help, under the docstring of their class."""

    def arguments(self) -> dict[str, Any]:
        """Options that are set, under their names in Python."""
        return {name: value for name, value in vars(self).items() if value is not None and value != []}


@dataclass(frozen=True, kw_only=True)
class MatrixOptions(Group):
    """Expression values."""

    layer: Annotated[str | None, typer.Option(help="Layer with the expression values. Default: X.")] = None
    raw: Annotated[bool, typer.Option("--raw", help="Use the values of adata.raw, for example if X is scaled.")] = False
    symbols: Annotated[
        str | None, typer.Option(help="var column with gene symbols. Default: the index, or recognised.")
    ] = None
    organism: Annotated[str | None, typer.Option(help="Organism of all cells. Default: read from the file.")] = None
    scale: Annotated[
        Scale | None,
        typer.Option(help="Scale of the values; log1p: ln(1 + CP10k), ln: of any total. Default: recognised."),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Options that are set, under their names in Python."""
        values = super().arguments()
        values["use_raw"] = values.pop("raw")
        return values


@dataclass(frozen=True, kw_only=True)
class CellOptions(MatrixOptions):
    """Cells and genes."""

    gene_table: Annotated[
        str | None, typer.Option(help="Table of gene identifiers and symbols (.csv, .tsv or .parquet).")
    ] = None
    aliases: Annotated[
        str | None, typer.Option(help="Table of old and approved gene symbols (.csv, .tsv or .parquet).")
    ] = None
    max_genes: Annotated[int | None, typer.Option(help="Maximum number of genes in a sentence.", min=1)] = None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Group):
    """Model."""

    model: Annotated[
        str, typer.Option("--model", "-m", help="Name (see `cell2sen models`), directory or Hugging Face id.")
    ] = "nano"
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hugging Face repository.")] = None
    dtype: Annotated[Dtype | None, typer.Option(help="Number format of the weights.")] = None
    quantize: Annotated[Quantize | None, typer.Option(help="Load the weights in 4 or 8 bits (bitsandbytes).")] = None
    locked: Annotated[
        bool, typer.Option("--locked", help="Refuse a model whose files differ from its lock file (cell2sen fetch).")
    ] = False


@dataclass(frozen=True, kw_only=True)
class RunOptions(Group):
    """Prompts and speed."""

    templates: Annotated[
        str | None, typer.Option(help="Prompt templates: a JSON file, cell2sen or cell2sentence. Default: the model's.")
    ] = None
    context: Annotated[
        Many,
        typer.Option(
            help="obs column whose values are in the prompt (tissue, donor), or NAME=VALUE for all cells. May be "
            "repeated."
        ),
    ] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or one GPU, such as cuda:1.")] = "auto"
    backend: Annotated[
        str | None, typer.Option(help="Engine: transformers, vllm, or openai for a server. Default: transformers.")
    ] = None
    url: Annotated[
        str | None, typer.Option(help="Server of --backend openai or vllm, such as http://localhost:8000.")
    ] = None
    batch_size: Annotated[
        int | None, typer.Option(help="Prompts in a batch. Changes time and memory, not results.", min=1)
    ] = None
    online: Annotated[bool, typer.Option("--online", help="Download the model if it is not on this machine.")] = False

    def arguments(self) -> dict[str, Any]:
        """Options that are set, under their names in Python."""
        values = super().arguments()
        values["offline"] = not values.pop("online")
        if self.context:
            values["context"] = _context(self.context)
        return values


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Group):
    """Messages."""

    quiet: Quiet = False
    as_json: Annotated[bool, typer.Option("--json", help="A summary in JSON on stdout.")] = False

    def arguments(self) -> dict[str, Any]:
        """Options that are set, under their names in Python."""
        return {"progress": not self.quiet}

    def summarise(self, text: str, **values: Any) -> None:
        """Print `values` and the warnings as JSON on stdout, or `text` on stderr."""
        if self.as_json:
            warnings = {"warnings": messages.HANDLER.warnings} if messages.HANDLER.warnings else {}
            typer.echo(json.dumps(values | warnings, ensure_ascii=False))
        elif not self.quiet:
            typer.echo(text, err=True)


def _context(texts: list[str]) -> list[str] | dict[str, str]:
    """Columns, or name → value."""
    given = [text.partition("=") for text in texts]
    if all(equals for _, equals, _ in given):
        return {name.strip(): value.strip() for name, _, value in given}
    if any(equals for _, equals, _ in given):
        raise ValueError(f"--context takes obs columns or NAME=VALUE, not both, found {texts}")
    return texts


def arguments(*groups: Group) -> dict[str, Any]:
    """Keyword arguments for :mod:`cell2sen.tl` from groups of options."""
    return {name: value for group in groups for name, value in group.arguments().items()}


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with one option per field of each parameter that is a group of options."""
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if isinstance(hints[name], type) and issubclass(hints[name], Group):
            groups[name] = hints[name]
            parameters += _parameters(hints[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**values: Any) -> None:
        messages.FLAGS_OF_COMMAND.use(values)
        messages.HANDLER.is_quiet = bool(values.get("quiet"))
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        command(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def check_suffix(out: Path, *suffixes: str) -> None:
    """Raise a ValueError unless the file's name ends in one of `suffixes`."""
    if out.suffix not in suffixes:
        raise ValueError(f"{out} must end in {' or '.join(suffixes)}")


def _parameters(group: type[Group]) -> list[inspect.Parameter]:
    """A parameter for each field of a group, in the group's panel of the help."""
    panel = str(inspect.getdoc(group)).rstrip(".")
    parameters = []
    for name, hint in get_type_hints(group, include_extras=True).items():
        option = copy(hint.__metadata__[0])
        option.rich_help_panel = panel
        annotation = Annotated[hint.__origin__, option]  # type: ignore[name-defined]
        default = getattr(group, name)
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    return parameters
