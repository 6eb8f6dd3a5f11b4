"""Check of an input: what it is, what is used and left out, and what would fail, before a model is loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cell2sen import tasks
from cell2sen.data.expression import Expression
from cell2sen.data.files.opening import format_of
from cell2sen.data.genes.identifiers import looks_like
from cell2sen.data.names.errors import text_of
from cell2sen.data.names.perturbations import usual_controls
from cell2sen.data.names.text import some
from cell2sen.data.progress import duration
from cell2sen.data.reader import Reader
from cell2sen.data.scale.units import ScaleName, check_scale_name
from cell2sen.engine import cost
from cell2sen.engine.tokenization.tokenizer import known_genes
from cell2sen.inference.novelty.training_density import load_density, share_unlike, unlike_training
from cell2sen.inference.options import Options, recipe_for
from cell2sen.inference.session import open_cells, write_sentences
from cell2sen.inference.trained import warn_of_organisms
from cell2sen.model import EMBEDDED, Model, resolve
from cell2sen.sentences.sentences import Sentences

if TYPE_CHECKING:
    from anndata import AnnData

Level = Literal["ok", "warning", "error"]

#: Limits of an input without warnings: R² of the rank fit, and median number of genes per cell.
MIN_R_SQUARED, MIN_MEDIAN_GENES = 0.6, 50


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report of a check."""

    level: Level
    topic: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """Result of :func:`check`."""

    findings: tuple[Finding, ...]
    numbers: dict[str, Any]
    """Plain values: cells, genes, scale, organism, genes and tokens per cell, expected memory and time."""

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return all(finding.level != "error" for finding in self.findings)

    @property
    def text(self) -> str:
        """Report as text, one line per finding."""
        mark = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}
        lines = [f"{mark[finding.level]}  {finding.topic:<13} {finding.text}" for finding in self.findings]
        doubts = sum(finding.level == "warning" for finding in self.findings)
        verdict = "not ready: mend the errors above first"
        if self.ok:
            warned = "warning" if doubts == 1 else f"{doubts} warnings"
            verdict = "ready" + (f"; look at the {warned} above" if doubts else "")
        return "\n".join([*lines, "", verdict])

    def to_json(self) -> str:
        """Numbers and findings as JSON."""
        findings = [dataclasses.asdict(finding) for finding in self.findings]
        content = {"ok": self.ok, **self.numbers, "findings": findings}
        return json.dumps(content, indent=1, ensure_ascii=False)

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        verdict = self.text.splitlines()[-1]
        cells = [(one.level, one.topic, one.text) for one in self.findings]
        rows = "".join(f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in row)}</tr>" for row in cells)
        return f"<table>{rows}</table><p><strong>{html.escape(verdict)}</strong></p>"


class _Report(logging.Handler):
    """Findings and numbers of a check in progress. Warnings that are logged become findings, each once.

    Those with the topic of another line (``extra={"topic": …}``) make that line a warning, as it has the same numbers.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.findings: list[Finding] = []
        self.numbers: dict[str, Any] = {}
        self.of_topics: dict[str, str] = {}
        """Warnings by the topic of the line that they are about."""

    def emit(self, record: logging.LogRecord) -> None:
        if topic := getattr(record, "topic", None):
            self.of_topics[topic] = record.getMessage()
            return
        finding = Finding(level="warning", topic="doubtful", text=record.getMessage())
        if finding not in self.findings:
            self.findings.append(finding)

    def add(self, level: Level, topic: str, text: str) -> None:
        if self.of_topics.pop(topic, None):
            level = "warning"
        self.findings.append(Finding(level=level, topic=topic, text=text))

    def error(self, topic: str, error: Exception) -> None:
        self.add("error", topic, text_of(error))

    def done(self) -> Check:
        """The result, warnings last."""
        for text in self.of_topics.values():  # of lines that an error prevented
            self.findings.append(Finding(level="warning", topic="doubtful", text=text))
        order: dict[Level, int] = {"ok": 0, "warning": 1, "error": 2}
        in_order = sorted(self.findings, key=lambda finding: (finding.topic == "doubtful") + order[finding.level] // 2)
        return Check(findings=tuple(in_order), numbers=self.numbers)

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Context in which warnings of this package are findings, and are not printed."""
        logger = logging.getLogger("cell2sen")
        propagate, handlers, level = logger.propagate, logger.handlers, logger.level
        logger.propagate, logger.handlers = False, [self]
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.propagate, logger.handlers = propagate, handlers
            logger.setLevel(level)


def check(
    data: AnnData | str | Path,
    model: str | Path | Model = EMBEDDED,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    symbols: str | None = None,
    gene_table: Any = None,
    aliases: Any = None,
    organism: str | Sequence[str] | None = None,
    scale: ScaleName | None = None,
    max_genes: int | None = None,
    perturbation_column: str | None = None,
    progress: bool = False,
) -> Check:
    """Check of an input for a model, before the model is loaded. Changes nothing.

    The cells are read by the same functions as in all other verbs (:func:`cell2sen.inference.session.open_cells`): what
    they refuse is an error here, and their warnings are warnings here.

    Parameters
    ----------
    data
        AnnData or the path of a file.
    model
        Model whose genes, tokens and context the input is checked for.
    layer, use_raw, symbols, gene_table, aliases, organism, scale, max_genes, progress
        See :class:`cell2sen.inference.options.Options`.
    perturbation_column
        ``obs`` column with one perturbation per cell.

    Returns
    -------
    Check
        ``.ok``, ``.text``, ``.to_json()``, ``.findings``, ``.numbers``. Errors in the input are findings, not raised.
    """
    check_scale_name(scale)
    resolved = resolve(model)
    given: dict[str, Any] = {
        "layer": layer, "use_raw": use_raw, "symbols": symbols, "gene_table": gene_table, "aliases": aliases,
        "organism": organism, "scale": scale, "max_genes": max_genes, "progress": progress,
    }  # fmt: skip
    options: Options = {name: value for name, value in given.items() if value is not None}  # type: ignore[assignment]
    report = _Report()
    with report.collected():
        try:
            started = time.perf_counter()
            recipe = recipe_for(resolved, options)
            opened, perturbations = open_cells(data, recipe, options, perturbation_column)
            with opened:
                _add_file(report, opened.reader)
                before = time.perf_counter()
                tokens = cost.tokenizer_of(resolved)
                loading = time.perf_counter() - before
                expression, sentences = write_sentences(
                    opened, recipe, lambda symbols: known_genes(resolved, tokens, symbols), options, perturbations
                )
                report.numbers["seconds_to_write_sentences"] = round(time.perf_counter() - started - loading, 2)
                _add_genes(report, sentences)
                _add_scale(report, sentences, expression.is_recognised)
                _add_organisms(report, sentences, expression, organism)
                _add_known_genes(report, sentences, resolved)
                _add_unseen(report, sentences, resolved)
                _add_sentences(report, sentences)
                _add_values(report, sentences, expression)
        except (ValueError, KeyError, OSError, TypeError) as error:
            report.error("input", error)
            return report.done()
        warn_of_organisms(resolved, sentences)
        _add_cost(report, sentences, resolved, tokens)
    return report.done()


def _add_file(report: _Report, reader: Reader) -> None:
    """What the file is, the matrix that is read, names of cells."""
    kind = format_of(reader.file) if reader.file else "AnnData object in memory"
    name = f"{Path(reader.file).name}: {kind}" if reader.file else kind
    others = reader.hint.removeprefix("there is ") if reader.hint.startswith("there is ") else ""
    text = f"{name}, {reader.n_obs:,} cells × {len(reader.var):,} features; {reader.where} is read"
    report.add("ok", "file", text + (f" (there is also {others})" if others else ""))
    duplicated = reader.obs.index.duplicated()
    if duplicated.any():
        text = f"{duplicated.sum():,} cells have the name of an earlier cell, such as {reader.names[duplicated][0]!r}"
        report.add("warning", "cell names", f"{text}; call adata.obs_names_make_unique()")
    report.numbers |= {
        "format": kind,
        "n_cells": reader.n_obs,
        "n_genes": len(reader.var),
        "matrix": reader.where,
        "identifiers": looks_like(reader.var.index),
        "n_duplicate_cell_names": int(duplicated.sum()),
    }


def _add_genes(report: _Report, sentences: Sentences) -> None:
    """Genes that have a symbol, rows of var that are left out or whose names were changed."""
    account = dict(sentences.account)
    examples: dict[str, list[str]] = account["examples"]
    parts = [f"{account['symbols']:,} gene symbols from {account['source']}"]
    texts = {
        "not_genes": f"rows that are no genes left out ({account.get('kinds_left_out', '')})",
        "dropped": "left out, as they have no symbol",
        "duplicate_symbols": "symbols occur in several rows: the highest value is used",
        "prefixes_removed": "have a genome in front, which is taken off",
        "mangled_repaired": "names that R or a spreadsheet changed are repaired",
        "names_restored": "names restored that had a number behind",
        "aliases_replaced": "old names replaced by aliases=",
    }
    for key, text in texts.items():
        if account.get(key):
            parts.append(f"{account[key]:,} {text}, such as {', '.join(examples[key][:2])}")
    if "genes" in report.of_topics:
        parts.append("symbols= (a column of var) or gene_table= give symbols")
    report.add("ok", "genes", "; ".join(parts))
    report.numbers["genes"] = account


def _add_scale(report: _Report, sentences: Sentences, tested: bool) -> None:
    """Scale of the values and how certain it is."""
    scale = sentences.scale
    assert scale is not None
    agree = [f"all {len(sentences):,} cells agree"] if tested else []
    evidence = "; ".join([*scale.evidence, *agree])
    certainty = "certain" if scale.certain else "not certain, an assumption"
    report.add(
        "ok" if scale.certain else "warning", "scale", f"{scale} ({certainty}{': ' if evidence else ''}{evidence})"
    )
    report.numbers |= {
        "scale": scale.kind,
        "log_base": scale.base,
        "total": scale.total,
        "scale_certain": scale.certain,
        "scale_evidence": list(scale.evidence),
    }


def _add_organisms(
    report: _Report, sentences: Sentences, expression: Expression, given: str | Sequence[str] | None
) -> None:
    """Organisms with their numbers of cells, and where they were found."""
    numbers = Counter(sentences.organism)
    names = [f"{name} ({n:,} cell{'s' * (n > 1)})" if len(numbers) > 1 else name for name, n in sorted(numbers.items())]
    _, source = expression.organism_and_source(given)
    text = f"{' and '.join(names)}, from {source}"
    if source == "assumed":
        text = f"{names[0]}, assumed: neither obs, uns nor the names of the genes tell it; organism= sets it"
    elif "genes" in source:
        text += " (organism= sets another one)"
    report.add("ok", "organism", text)
    report.numbers |= {"organisms": sorted(numbers), "organism_source": source}


def _add_known_genes(report: _Report, sentences: Sentences, model: Model) -> None:
    """Share of the expressed counts that is of genes of the model."""
    account = sentences.account
    n_symbols, unknown = account["symbols"], account.get("n_unknown_to_model", 0)
    share = 1 - unknown / n_symbols
    of_counts: float | None = account.get("share_of_counts_known")
    text = f"{model.name} has {n_symbols - unknown:,} of {n_symbols:,} genes ({share:.0%})"
    if of_counts is not None:
        text = f"{of_counts:.1%} of the expressed counts are of genes of {model.name} ({n_symbols - unknown:,} of "
        text += f"{n_symbols:,} genes)"
    if strong := account.get("strong_genes_unknown_to_model"):
        text += f"; strong genes that it lacks: {', '.join(strong[:5])}"
    elif unknown:
        text += f"; it lacks, for example, {', '.join(account['unknown_to_model'][:3])}"
    if renamed := account.get("n_renamed_for_model"):
        text += f"; {renamed:,} have another name there, such as {account['examples_renamed_for_model'][0]}"
    report.add("ok", "known genes", text)
    report.numbers |= {"share_of_genes_known": round(share, 4), "share_of_counts_known": of_counts}


def _add_unseen(report: _Report, sentences: Sentences, model: Model) -> None:
    """Share of cells that are unlike the model's training cells, if it has their density."""
    density = load_density(model)
    if density is None:
        return
    unseen = density.unseen(sentences)
    share = share_unlike(unseen)
    text = f"{share:.0%} of the cells are unlike those that {model.name} was trained on"
    warning = unlike_training(unseen, model.name)
    report.add("warning" if warning else "ok", "cells like those of the training", warning or text)
    report.numbers["share_of_cells_unlike_training"] = None if np.isnan(unseen).all() else round(share, 4)


def _add_sentences(report: _Report, sentences: Sentences) -> None:
    """Genes per cell, perturbations."""
    n_genes = sentences.n_genes
    low, median, high = (int(value) for value in np.quantile(n_genes, [0.05, 0.5, 0.95]))
    limit = sentences.recipe.max_genes
    at_limit = int(np.sum(n_genes == limit)) if limit else 0
    text = f"median {median} genes per cell (5–95 %: {low}–{high})"
    if at_limit:
        text += f"; {at_limit:,} of {len(n_genes):,} cells reach the limit of {limit}, only their top genes are used"
    if median < MIN_MEDIAN_GENES:
        text += f"; sentences of fewer than {MIN_MEDIAN_GENES} genes have little information"
    report.add("ok" if median >= MIN_MEDIAN_GENES else "warning", "sentences", text)
    report.numbers |= {
        "n_empty_cells": int(np.sum(n_genes == 0)),
        "n_cells_at_limit": at_limit,
        "genes_per_cell": {"q05": low, "median": median, "q95": high},
        "max_genes": limit,
    }
    if any(sentences.perturbations):
        names = sorted({name for name in sentences.perturbations if name})
        without = sum(name is None for name in sentences.perturbations)
        controls = usual_controls(names)
        text = f"{len(names)} different, such as {some(names)}; {without:,} cells have none"
        report.add("ok", "perturbations", text + (f"; controls may be {some(controls)}" if controls else ""))
        report.numbers["n_perturbations"] = len(names)


def _add_values(report: _Report, sentences: Sentences, expression: Expression) -> None:
    """Missing values, rounding noise, and a rank fit that is unusual."""
    account, fit = sentences.account, sentences.fit
    if noise := account["n_noise_values"]:
        text = f"{noise:,} values are 0 but for rounding (1e-16), and are read as 0"
        report.add("warning", "rounding", text)
    if account["n_missing_values"]:
        cell, gene = expression.example(np.isnan)
        report.add("warning", "missing", f"for example cell {cell!r} has NaN for {gene}")
    report.numbers |= {key: account[key] for key in ("n_missing_values", "n_noise_values")}
    if fit is None:
        return
    report.numbers["fit"] = dataclasses.asdict(fit)
    if fit.r_squared <= MIN_R_SQUARED:
        text = (
            f"expression falls unusually over the ranks of a sentence (R² {fit.r_squared:.2f}, cells have 0.8 to 0.95)"
        )
        report.add("warning", "rank fit", f"{text}: are these values of single cells on the scale above?")


def tokens_per_cell(
    n_genes: NDArray[np.integer[Any]], genes: Sequence[str], tokenizer: Any, max_genes: int | None
) -> NDArray[np.float64]:
    """Estimated tokens of the prompts of an embedding, float64 (n,).

    Parameters
    ----------
    n_genes
        Expressed genes of each cell that the model has, (n,).
    genes
        Genes of some cells, whose mean number of tokens is taken.
    tokenizer
        That of the model; ``None``: the numbers of the published checkpoints.
    max_genes
        Genes of a sentence at most.
    """
    per_gene, of_instruction = cost.tokens_of(tokenizer, genes, tasks.load("embed").prompt(genes=["A"]).text)
    return np.asarray(of_instruction + per_gene * np.minimum(n_genes, max_genes or 10**9), dtype=np.float64)


def dtype_on_cpu(model: Model) -> str:
    """Number format of the weights on this CPU."""
    if model.dtype == "auto" and model.resolved_dtype == "bfloat16":
        from cell2sen.engine.network.cpu import resolve_dtype

        model = resolve_dtype(model, "cpu")
    return model.resolved_dtype


def _add_cost(report: _Report, sentences: Sentences, model: Model, tokenizer: Any) -> None:
    """Tokens, memory and time of embedding."""
    genes = [gene for names in sentences[: min(100, len(sentences))].gene_names() for gene in names]
    tokens = tokens_per_cell(sentences.n_genes, genes, tokenizer, sentences.recipe.max_genes)
    text = f"about {np.median(tokens):,.0f} tokens per cell" + (" (estimated)" if tokenizer is None else "")
    report.numbers["tokens_per_cell"] = float(np.median(tokens))
    config = cost.read_config(model)
    if config is None:
        report.add("ok", "expected", text)
        missing = f"{model.name} is not on this machine; fetch it with: cell2sen fetch {model.path}"
        report.add("error", "model", missing)
        return
    context = cost.context_of(config)
    too_long = int(np.sum(tokens > context)) if context else 0
    dtype = dtype_on_cpu(model)
    memory = cost.memory(config, dtype=dtype, quantize=model.quantize)
    seconds = cost.seconds_of_prompts(config, tokens, dtype=dtype)
    seconds += report.numbers["seconds_to_write_sentences"]
    report.add("ok", "expected", f"{text}, {memory / 1e9:.1f} GB of memory, {duration(seconds)} to embed on this CPU")
    if too_long:
        text = f"{too_long:,} cells are longer than the context of {context:,} tokens and lose their weakest genes"
        report.add("warning", "context", text)
    report.numbers |= {
        "n_cells_cut": too_long,
        "context": context,
        "expected_memory_gb": round(memory / 1e9, 2),
        "expected_seconds_on_cpu": round(seconds, 1),
    }
