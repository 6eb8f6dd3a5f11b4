"""Options of all verbs: model, matrix, sentences and speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from cell2sen.backend import Backend
from cell2sen.data.expression import Whole
from cell2sen.data.progress import Report
from cell2sen.data.scale.units import Scale, ScaleName, check_scale_name
from cell2sen.model import Model
from cell2sen.sentences.ranking import Case, Recipe, Ties


class ModelOptions(TypedDict, total=False):
    """Which model, and the precision of its weights."""

    model: str | Path | Model | Backend
    """Known name, directory, hub id, :class:`Model`, or a loaded backend to be used again. Default: the embedded
    model."""

    revision: str
    """Revision of a model of the hub."""

    dtype: Literal["auto", "bfloat16", "float32", "float16"]
    """Number format of the weights, see :class:`cell2sen.model.Model`."""

    quantize: Literal["4bit", "8bit"]
    """Load the weights in 4 or 8 bits."""

    locked: bool
    """Compare the model's files with its lock file before they are loaded (:func:`cell2sen.checkpoints.fetch`).
    Default: ``False``."""


class MatrixOptions(TypedDict, total=False):
    """Which values of an AnnData object are read, and the names of its genes."""

    layer: str
    """Layer with the values to rank. Default: ``X``."""

    use_raw: bool
    """Read ``adata.raw`` instead."""

    symbols: str
    """``var`` column with gene symbols. Default: recognised where the index holds Ensembl ids."""

    gene_table: Any
    """Table identifier → symbol, see :func:`cell2sen.data.genes.symbols.resolve_genes`."""

    aliases: Any
    """Table alias → symbol, see :func:`cell2sen.data.genes.symbols.resolve_genes`."""

    organism: str | Sequence[str]
    """Organism of all cells, or of each cell. Default: read from the data."""

    scale: ScaleName | Scale
    """Scale of the values: ``"counts"``, ``"log1p"`` (ln(1 + CP10k)), ``"ln"``, ``"log2"``, ``"log10"``, ``"cp10k"``,
    ``"cpm"``, … (:data:`cell2sen.data.scale.units.NAMED`), or that of a larger file. Default: recognised from the
    values."""

    whole: Whole
    """What was found in the whole file, if the cells are some of its rows, as in a run in shards."""


class SentenceOptions(TypedDict, total=False):
    """How cell sentences and prompts are written."""

    max_genes: int
    """Maximum number of genes of a sentence. Default: the model's recipe."""

    ties: Ties
    """Order of genes with equal values. Default: the model's recipe."""

    case: Case
    """Case of gene symbols. Default: the model's recipe."""

    templates: str | Path | Mapping[str, Any]
    """Other prompt templates, see :func:`cell2sen.inference.templates.choose_templates`."""

    context: str | Sequence[str] | Mapping[str, str]
    """obs columns whose values are in the prompt (tissue, donor, disease, free text), or ``{name: value}`` for all
    cells. Missing values are written as nothing: such a cell has the plain prompt."""


class SpeedOptions(TypedDict, total=False):
    """Options that change no result beyond rounding."""

    backend: str
    """Name of the inference engine: ``"transformers"``, ``"vllm"``, ``"openai"``, or one of an installed package.
    Default: ``"transformers"``."""

    url: str
    """Address of the server that computes, for the backends ``"openai"`` and ``"vllm"``: ``"http://localhost:8000"``,
    with ``"#NAME"`` if the server has several models."""

    device: str
    """``"auto"``, ``"cpu"`` or ``"cuda"``."""

    batch_size: int | None
    """Prompts in a batch. Default: as many as fit into memory."""

    offline: bool
    """Never download a checkpoint. Default: ``True``."""

    progress: bool | Report
    """Show progress bars on stderr, or call a function with the name of the work, the cells that are done (fractions
    while answers are written), and their total; an error that it raises cancels the work. Default: ``True``."""


class Options(ModelOptions, MatrixOptions, SentenceOptions, SpeedOptions, total=False):
    """Options that all verbs take."""


def check_options(options: Options) -> None:
    """Raise an error if an option does not exist.

    Raises
    ------
    TypeError
        Unknown options; lists those there are.
    ValueError
        A scale that does not exist; lists those there are.
    """
    available = Options.__optional_keys__
    if unknown := sorted(set(options) - available):
        raise TypeError(f"unknown arguments {unknown}; available: {sorted(available)}")
    if not isinstance(scale := options.get("scale"), Scale):
        check_scale_name(scale)


def recipe_for(model: Model, options: Options) -> Recipe:
    """The model's recipe with the changes in `options`."""
    changes: dict[str, Any] = {name: options.get(name) for name in ("max_genes", "ties", "case")}
    return replace(model.recipe, **{name: value for name, value in changes.items() if value is not None})
