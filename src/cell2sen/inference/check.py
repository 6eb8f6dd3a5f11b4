"""Preflight check: what an input is and what would fail, before any model is loaded."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cell2sen import tasks
from cell2sen.data.expression import MIN_SHARE_OF_COUNTS, Expression
from cell2sen.data.genes.identifiers import looks_like
from cell2sen.data.genes.organism import KEYS, organism_column
from cell2sen.data.obs import perturbations_of_cells
from cell2sen.data.reader import Reader, open_reader
from cell2sen.data.scale.units import ScaleName, check_scale_name
from cell2sen.engine import cost
from cell2sen.model import EMBEDDED, Model, resolve
from cell2sen.sentences.from_anndata import from_expression
from cell2sen.sentences.sentences import Sentences

if TYPE_CHECKING:
    from anndata import AnnData

Level = Literal["ok", "warning", "error"]

#: Limits of an input without warnings: R² of the rank fit, share of genes without a symbol, share of symbols that the
#: model can write, and median number of genes per cell.
MIN_R_SQUARED, MAX_SHARE_WITHOUT_SYMBOL, MIN_SHARE_KNOWN, MIN_MEDIAN_GENES = 0.6, 0.2, 0.5, 50


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
        lines = [f"{mark[finding.level]}  {finding.topic:<12} {finding.text}" for finding in self.findings]
        return "\n".join([*lines, "", "ready" if self.ok else "not ready: mend the errors above first"])

    def to_json(self) -> str:
        """Numbers and findings as JSON."""
        findings = [dataclasses.asdict(finding) for finding in self.findings]
        content = {"ok": self.ok, **self.numbers, "findings": findings}
        return json.dumps(content, indent=1, ensure_ascii=False)

    def __str__(self) -> str:
        return self.text


class _Report:
    """Findings and numbers of a check in progress."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.numbers: dict[str, Any] = {}

    def add(self, level: Level, topic: str, text: str) -> None:
        self.findings.append(Finding(level=level, topic=topic, text=text))

    def done(self) -> Check:
        return Check(findings=tuple(self.findings), numbers=self.numbers)


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
    """Preflight check of an input for a model. Loads no weights and changes nothing.

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
    report = _Report()
    check_scale_name(scale)
    resolved = resolve(model)
    logger = logging.getLogger("cell2sen")
    level = logger.level
    logger.setLevel(logging.ERROR)  # warnings are findings of the report
    try:
        with open_reader(data, layer=layer, use_raw=use_raw) as reader:
            report.add("ok", "matrix", f"{reader.n_obs:,} cells × {len(reader.var):,} genes in {reader.where}")
            report.numbers |= {"n_cells": reader.n_obs, "n_genes": len(reader.var), "matrix": reader.where}
            _add_names(report, reader)
            started = time.perf_counter()
            recipe = dataclasses.replace(resolved.recipe, max_genes=max_genes or resolved.recipe.max_genes)
            expression = Expression.of(
                reader, symbols=symbols, gene_table=gene_table, aliases=aliases, case=recipe.case, scale=scale
            )
            known = _known_genes(resolved)
            sentences = from_expression(
                expression if known is None else expression.known_to(known, organism),
                recipe,
                organism=organism,
                perturbations=perturbations_of_cells(reader.obs, perturbation_column),
                progress=progress,
            )
            report.numbers["seconds_to_write_sentences"] = round(time.perf_counter() - started, 2)
    except (ValueError, KeyError, OSError, TypeError) as error:
        report.add("error", "input", str(error.args[0] if isinstance(error, KeyError) and error.args else error))
        return report.done()
    finally:
        logger.setLevel(level)
    _add_scale(report, sentences)
    _add_genes(report, sentences, resolved)
    _add_organisms(report, sentences, resolved)
    _add_cells(report, sentences)
    _add_cost(report, sentences, resolved)
    return report.done()


def _known_genes(model: Model) -> Callable[[Sequence[str]], NDArray[np.bool_]] | None:
    if model.genes is None:
        return None
    genes = frozenset(model.genes)
    return lambda symbols: np.array([symbol in genes for symbol in symbols], dtype=bool)


def _add_names(report: _Report, reader: Reader) -> None:
    """Kind of gene identifiers, duplicate cell names."""
    kind = looks_like(reader.var.index)
    words = {
        "symbols": "gene symbols",
        "ensembl": "Ensembl ids",
        "entrez": "numbers (Entrez ids)",
        "mixed": "symbols and identifiers",
    }
    report.add("ok", "identifiers", f"the index of var holds {words[kind]}")
    duplicates = int(reader.obs.index.duplicated().sum())
    if duplicates:
        text = f"{duplicates} cells have the name of an earlier cell; call adata.obs_names_make_unique()"
        report.add("warning", "cell names", text)
    report.numbers |= {"identifiers": kind, "n_duplicate_cell_names": duplicates}
    if not any(organism_column(reader.obs, key) is not None or key in reader.uns for key in KEYS):
        report.numbers["organism_source"] = "gene names"


def _add_scale(report: _Report, sentences: Sentences) -> None:
    """Scale of the values, rank fit, missing values."""
    scale, fit = sentences.scale, sentences.fit
    assert scale is not None
    text = str(scale) + (f" ({'; '.join(scale.evidence)})" if scale.evidence else "")
    report.add("ok" if scale.certain else "warning", "scale", text)
    report.numbers |= {
        "scale": scale.kind,
        "log_base": scale.base,
        "total": scale.total,
        "scale_certain": scale.certain,
        "scale_evidence": list(scale.evidence),
    }
    if fit is not None:
        report.numbers["fit"] = dataclasses.asdict(fit)
        line = f"{fit.intercept:.3f} {fit.slope:+.3f} · log10(1 + position)"
        text = f"log10(1 + CP10k) = {line}, R² {fit.r_squared:.3f}"
        report.add("ok" if fit.r_squared > MIN_R_SQUARED else "warning", "rank fit", text)
    missing = sentences.account["n_missing_values"]
    if missing:
        report.add("warning", "missing", f"{missing:,} values are NaN; they are read as not expressed")
    report.numbers["n_missing_values"] = missing
    noise = sentences.account["n_noise_values"]
    if noise:
        report.add("warning", "rounding", f"{noise:,} values are 0 but for rounding (1e-16); they are read as 0")
    report.numbers["n_noise_values"] = noise


def _add_genes(report: _Report, sentences: Sentences, model: Model) -> None:
    """Genes with a symbol, duplicate symbols, genes that the model can write."""
    account = dict(sentences.account)
    n_symbols = account["symbols"]
    text = f"{n_symbols:,} of {account['genes']:,} genes have a symbol (from {account['source']})"
    few_dropped = account["dropped"] <= MAX_SHARE_WITHOUT_SYMBOL * account["genes"]
    report.add("ok" if few_dropped else "warning", "symbols", text)
    if account["duplicate_symbols"]:
        text = f"{account['duplicate_symbols']} symbols occur in several columns; their maximum is taken"
        report.add("warning", "duplicates", text)
    if account["not_genes"]:
        text = f"{account['not_genes']:,} rows of var are no genes and are left out: {account['kinds_left_out']}"
        report.add("ok", "other features", text)
    unknown = account.get("n_unknown_to_model", 0)
    share = 1 - unknown / n_symbols
    text = f"{model.name} can write {n_symbols - unknown:,} of {n_symbols:,} symbols ({share:.1%})"
    if unknown:
        text += f"; left out, for example: {', '.join(account['examples_unknown_to_model'][:5])}"
    of_counts, strong = account.get("share_of_counts_known"), account.get("strong_genes_unknown_to_model", [])
    if of_counts is not None:
        text += f"; {of_counts:.1%} of the expressed counts"
    if strong:
        text += f"; strongly expressed but unknown: {', '.join(strong[:5])}"
    few = share <= MIN_SHARE_KNOWN or (of_counts is not None and of_counts < MIN_SHARE_OF_COUNTS)
    report.add("warning" if few or strong else "ok", "known genes", text)
    if renamed := account.get("n_renamed_for_model"):
        examples = ", ".join(account["examples_renamed_for_model"][:3])
        report.add("ok", "renamed genes", f"{renamed:,} genes have another name in {model.name}: {examples}")
    report.numbers |= {"share_of_genes_known": round(share, 4), "share_of_counts_known": of_counts, "genes": account}


def _add_organisms(report: _Report, sentences: Sentences, model: Model) -> None:
    """Organisms, and those that the model was not trained on."""
    organisms = sorted(set(sentences.organism))
    trained = model.metadata.get("organisms") or organisms
    unknown = [name for name in organisms if name not in trained]
    text = " and ".join(organisms)
    if report.numbers.get("organism_source"):
        text += " (recognised by the gene names; organism= sets another one)"
    if unknown:
        text += f"; {model.name} was not trained on it"
    report.add("warning" if unknown else "ok", "organism", text)
    report.numbers["organisms"] = organisms


def _add_cells(report: _Report, sentences: Sentences) -> None:
    """Genes per cell, empty cells, perturbations."""
    n_genes = sentences.n_genes
    empty = int(np.sum(n_genes == 0))
    if empty:
        report.add("warning", "empty cells", f"{empty} cells have no gene that can be written; they get no result")
    low, median, high = (int(value) for value in np.quantile(n_genes, [0.05, 0.5, 0.95]))
    limit = sentences.recipe.max_genes
    at_limit = int(np.sum(n_genes == limit)) if limit else 0
    text = f"median {median} (5–95 %: {low}–{high})"
    if at_limit:
        text += f"; {at_limit:,} of {len(n_genes):,} cells reach the limit of {limit}, only their top genes are used"
    if median < MIN_MEDIAN_GENES:
        text += f"; sentences of fewer than {MIN_MEDIAN_GENES} genes have little information"
    report.add("ok" if median >= MIN_MEDIAN_GENES else "warning", "genes/cell", text)
    report.numbers |= {
        "n_empty_cells": empty,
        "n_cells_at_limit": at_limit,
        "genes_per_cell": {"q05": low, "median": median, "q95": high},
        "max_genes": limit,
    }
    if any(sentences.perturbations):
        names = sorted({name for name in sentences.perturbations if name})
        without = sum(name is None for name in sentences.perturbations)
        text = f"{len(names)} different, for example {names[:5]}; {without} cells have none"
        report.add("ok", "perturbations", text)
        report.numbers["n_perturbations"] = len(names)


def _add_cost(report: _Report, sentences: Sentences, model: Model) -> None:
    """Tokens, memory and time of embedding."""
    genes = [gene for names in sentences[: min(100, len(sentences))].gene_names() for gene in names]
    instruction = tasks.load("embed").prompt(genes=["A"]).text
    per_gene, of_instruction, exact = cost.tokens_of(model, genes, instruction)
    tokens = of_instruction + per_gene * np.minimum(sentences.n_genes, sentences.recipe.max_genes or 10**9)
    text = f"about {np.median(tokens):,.0f} per cell ({per_gene:.1f} per gene)" + ("" if exact else ", estimated")
    config = cost.read_config(model)
    if config is None:
        report.add("warning", "model", f"{model.name} is not on this machine; fetch it with: hf download {model.path}")
        report.add("ok", "tokens", text)
        return
    context = int(config.get("max_position_embeddings", 0)) or None
    too_long = int(np.sum(tokens > context)) if context else 0
    if too_long:
        text += f"; {too_long:,} cells are longer than the context of {context:,} tokens and lose their weakest genes"
    report.add("warning" if too_long else "ok", "tokens", text)
    memory = cost.memory(config, dtype=_dtype_on_cpu(model), quantize=model.quantize)
    seconds = cost.seconds(config, float(tokens.sum()))
    report.add("ok", "expected", f"about {memory / 1e9:.1f} GB of memory and {_duration(seconds)} to embed on this CPU")
    report.numbers |= {
        "tokens_per_cell": float(np.median(tokens)),
        "n_cells_cut": too_long,
        "context": context,
        "expected_memory_gb": round(memory / 1e9, 2),
        "expected_seconds_on_cpu": round(seconds, 1),
    }


def _dtype_on_cpu(model: Model) -> str:
    """Number format of the weights on this CPU."""
    if model.dtype == "auto" and model.resolved_dtype == "bfloat16":
        from cell2sen.engine.network.cpu import resolve_dtype

        model = resolve_dtype(model, "cpu")
    return model.resolved_dtype


def _duration(seconds: float) -> str:
    for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds" if seconds >= 2 else "a second"
