"""check: what an input is and what would fail, before any model is loaded."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cell2sen import tasks
from cell2sen.data.genes import symbols as gene_names
from cell2sen.data.genes.organism import KEYS, organism_column
from cell2sen.data.reader import open_source
from cell2sen.model import EMBEDDED, Model, resolve
from cell2sen.sentences.ranking import Recipe
from cell2sen.sentences.sentences import Sentences, from_anndata

if TYPE_CHECKING:
    from anndata import AnnData

#: Tokens per gene of the published checkpoints where their tokenizer is not on this machine (method: about 4).
TOKENS_PER_GENE = 4.0
#: Tokens in a batch on a CPU, and what Python and PyTorch take before they do anything. With these and the factors
#: in _cost a 3.2 M-parameter model that embeds 400 PBMC is expected to take 0.9 GB; measured were 0.95 GB.
BATCH_TOKENS, IDLE_MEMORY = 8192, 0.5e9
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of a check."""

    level: Literal["ok", "warning", "error"]
    topic: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """What :func:`check` found."""

    findings: tuple[Finding, ...]
    numbers: dict[str, Any]
    """The same as plain values: cells, genes, scale, organism, genes and tokens per cell, expected memory and time."""

    @property
    def ok(self) -> bool:
        """Whether nothing would fail."""
        return all(finding.level != "error" for finding in self.findings)

    @property
    def text(self) -> str:
        """The report for a person."""
        mark = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}
        lines = [f"{mark[one.level]}  {one.topic:<12} {one.text}" for one in self.findings]
        return "\n".join([*lines, "", "ready" if self.ok else "not ready: mend the errors above first"])

    def to_json(self) -> str:
        """The report for a machine."""
        content = {"ok": self.ok, **self.numbers, "findings": [dataclasses.asdict(one) for one in self.findings]}
        return json.dumps(content, indent=1, ensure_ascii=False)

    def __str__(self) -> str:
        return self.text


class _Report:
    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.numbers: dict[str, Any] = {}

    def add(self, level: Literal["ok", "warning", "error"], topic: str, text: str) -> None:
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
    max_genes: int | None = None,
    perturbation_column: str | None = None,
    progress: bool = False,
) -> Check:
    """Say what the input is and what would fail, without loading a model's weights. Changes nothing.

    Parameters
    ----------
    data
        AnnData or the path of a file.
    model
        For which model: its genes, its tokens, its context.

    Returns
    -------
    Check
        ``.ok``, ``.text``, ``.to_json()``, ``.findings``, ``.numbers``. Bad input is reported, not raised.
    """
    report = _Report()
    wanted = resolve(model)
    logger = logging.getLogger("cell2sen")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what would be warned of is in the report
    try:
        with open_source(data, layer=layer, use_raw=use_raw) as source:
            report.add("ok", "matrix", f"{source.n_obs:,} cells × {len(source.var):,} genes in {source.where}")
            report.numbers |= {"n_cells": source.n_obs, "n_genes": len(source.var), "matrix": source.where}
            _names(report, source)
        started = time.perf_counter()
        sentences = from_anndata(
            data, _recipe(wanted, max_genes), layer=layer, use_raw=use_raw, symbols=symbols, gene_table=gene_table,
            aliases=aliases, organism=organism, perturbation_column=perturbation_column,
            known=_known(wanted), progress=progress,
        )  # fmt: skip
        report.numbers["seconds_to_write_sentences"] = round(time.perf_counter() - started, 2)
    except (ValueError, KeyError, OSError, TypeError) as error:
        report.add("error", "input", str(error.args[0] if isinstance(error, KeyError) and error.args else error))
        return report.done()
    finally:
        logger.setLevel(level)
    _scale(report, sentences)
    _genes(report, sentences, wanted)
    _cells(report, sentences)
    _cost(report, sentences, wanted)
    return report.done()


def _recipe(model: Model, max_genes: int | None) -> Recipe:
    return dataclasses.replace(model.recipe, max_genes=max_genes or model.recipe.max_genes)


def _known(model: Model) -> Any:
    if model.genes is None:
        return None
    listed = frozenset(model.genes)
    return lambda symbols: np.array([symbol in listed for symbol in symbols], dtype=bool)


def _names(report: _Report, source: Any) -> None:
    kind = gene_names.looks_like(source.var.index)
    found = {
        "symbols": "gene symbols",
        "ensembl": "Ensembl ids",
        "entrez": "numbers",
        "mixed": "symbols and identifiers",
    }
    report.add("ok", "identifiers", f"the index of var holds {found[kind]}")
    report.numbers["identifiers"] = kind
    duplicates = int(source.obs.index.duplicated().sum())
    if duplicates:
        report.add(
            "warning", "cell names", f"{duplicates} cell names occur twice; adata.obs_names_make_unique() mends it"
        )
    report.numbers["n_duplicate_cell_names"] = duplicates
    if not any(organism_column(source.obs, key) is not None or key in source.uns for key in KEYS):
        report.numbers["organism_source"] = "gene names"


def _scale(report: _Report, sentences: Sentences) -> None:
    assert sentences.scale is not None
    certain = sentences.scale.certain
    report.add("ok" if certain else "warning", "scale", str(sentences.scale))
    report.numbers |= {"scale": sentences.scale.kind, "log_base": sentences.scale.base, "total": sentences.scale.total}
    if sentences.fit is not None:
        fit = sentences.fit
        report.numbers["fit"] = dataclasses.asdict(fit)
        text = f"expression = {fit.intercept:.3f} {fit.slope:+.3f} · log10(1 + position), R² {fit.r_squared:.3f}"
        report.add("ok" if fit.r_squared > 0.6 else "warning", "rank fit", text)
    missing = sentences.account["n_missing_values"]
    if missing:
        report.add("warning", "missing", f"{missing:,} values are NaN; they are read as not expressed")
    report.numbers["n_missing_values"] = missing


def _genes(report: _Report, sentences: Sentences, model: Model) -> None:
    account = dict(sentences.account)
    text = f"{account['symbols']:,} of {account['genes']:,} genes have a symbol (from {account['source']})"
    report.add("ok" if account["dropped"] <= 0.2 * account["genes"] else "warning", "symbols", text)
    if account["duplicate_symbols"]:
        text = f"{account['duplicate_symbols']} symbols occur in several columns; their maximum is taken"
        report.add("warning", "duplicates", text)
    unknown = account.get("n_unknown_to_model", 0)
    share = 1 - unknown / account["symbols"]
    text = f"{account['symbols'] - unknown:,} of {account['symbols']:,} symbols are known to {model.name} ({share:.1%})"
    if unknown:
        text += f"; left out are for example {', '.join(account['examples_unknown_to_model'][:5])}"
    report.add("ok" if share > 0.5 else "warning", "known genes", text)
    organisms = sorted(set(sentences.organism))
    trained = model.metadata.get("organisms") or []
    strange = [name for name in organisms if trained and name not in trained]
    text = " and ".join(organisms)
    if report.numbers.get("organism_source"):
        text += " (judged by the gene names; organism= overrules)"
    report.add(
        "warning" if strange else "ok", "organism", text + (f"; {model.name} was not trained on it" if strange else "")
    )
    report.numbers |= {"organisms": organisms, "share_of_genes_known": round(share, 4), "genes": account}


def _cells(report: _Report, sentences: Sentences) -> None:
    n_genes = sentences.n_genes
    empty = int(np.sum(n_genes == 0))
    if empty:
        report.add("warning", "empty cells", f"{empty} cells have no gene that can be written; they get no result")
    low, median, high = (int(value) for value in np.quantile(n_genes, [0.05, 0.5, 0.95]))
    limit = sentences.recipe.max_genes
    text = f"median {median} (5–95 %: {low}–{high})"
    full = int(np.sum(n_genes == limit)) if limit else 0
    if full:
        text += f"; {full:,} of {len(n_genes):,} cells reach the limit of {limit}, only their strongest genes are used"
    report.add(
        "ok" if median >= 50 else "warning",
        "genes/cell",
        text + ("" if median >= 50 else "; short sentences say little"),
    )
    report.numbers |= {
        "n_empty_cells": empty,
        "n_cells_at_limit": full,
        "genes_per_cell": {"q05": low, "median": median, "q95": high},
        "max_genes": limit,
    }
    if any(sentences.perturbations):
        names = sorted({one for one in sentences.perturbations if one})
        n_missing = sum(one is None for one in sentences.perturbations)
        report.add(
            "ok", "perturbations", f"{len(names)} different ones, for example {names[:5]}; {n_missing} cells without"
        )
        report.numbers["n_perturbations"] = len(names)


def _cost(report: _Report, sentences: Sentences, model: Model) -> None:
    """Tokens, memory and time of embedding, from the config and a matrix product measured here."""
    per_gene, frame, exact = _tokens(sentences, model)
    tokens = frame + per_gene * np.minimum(sentences.n_genes, sentences.recipe.max_genes or 10**9)
    text = f"about {np.median(tokens):,.0f} per cell ({per_gene:.1f} per gene)" + ("" if exact else ", estimated")
    config = _config(model)
    if config is None:
        report.add("warning", "model", f"{model.name} is not on this machine; fetch it with: hf download {model.path}")
        report.add("ok", "tokens", text)
        return
    context = int(config.get("max_position_embeddings", 0)) or None
    over = int(np.sum(tokens > context)) if context else 0
    if over:
        text += f"; {over:,} cells are longer than the context of {context:,} tokens and lose their weakest genes"
    report.add("warning" if over else "ok", "tokens", text)
    in_layers, embeddings = _parameters(config)
    quantized = {"4bit": 0.28, "8bit": 0.52}.get(model.quantize or "", 1.0)  # embeddings never are
    if model.dtype == "auto" and model.resolved_dtype == "bfloat16":
        from cell2sen.backends.transformers import for_device

        model = for_device(model, "cpu")
    size = BYTES[model.resolved_dtype]
    hidden = float(config.get("hidden_size", 0))
    batch = BATCH_TOKENS * (12 * hidden + 8 * float(config.get("intermediate_size", 4 * hidden))) * size
    memory = IDLE_MEMORY + (in_layers * quantized + embeddings) * size + batch
    seconds = float(tokens.sum()) * 2 * in_layers / (0.3 * _flops_per_second())
    text = f"about {memory / 1e9:.1f} GB of memory and {_duration(seconds)} to embed on this CPU"
    report.add("ok", "expected", text)
    report.numbers |= {
        "tokens_per_cell": float(np.median(tokens)), "n_cells_cut": over, "context": context,
        "expected_memory_gb": round(memory / 1e9, 2), "expected_seconds_on_cpu": round(seconds, 1),
    }  # fmt: skip


def _tokens(sentences: Sentences, model: Model) -> tuple[float, float, bool]:
    """Mean tokens per gene, tokens of the prompt around them, and whether the model's tokenizer was asked."""
    frame = tasks.load("embed").prompt(genes=["A"])
    try:
        from cell2sen.engine.tokenization.tokenizer import load_tokens

        tokens = load_tokens(model.path, local_files_only=True, revision=model.revision)
    except (OSError, ValueError):
        return TOKENS_PER_GENE, 60.0, False
    sample = sentences[: min(100, len(sentences))].gene_names()
    words: NDArray[np.int64] = tokens.count([" " + gene for genes in sample for gene in genes])
    return float(words.mean()) if len(words) else 1.0, float(tokens.count([frame.text])[0]), True


def _config(model: Model) -> dict[str, Any] | None:
    """The checkpoint's config.json, from its directory or the hub's cache on this machine."""
    if model.is_local:
        file = Path(model.path) / "config.json"
    else:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(model.path, "config.json", revision=model.revision)
        if not isinstance(found, str):
            return None
        file = Path(found)
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def _parameters(config: dict[str, Any]) -> tuple[float, float]:
    """Weights of a decoder's layers and of its embeddings from its config, without biases and norms."""
    hidden, layers = float(config.get("hidden_size", 0)), float(config.get("num_hidden_layers", 0))
    heads, inner = float(config.get("num_attention_heads", 1)), float(config.get("intermediate_size", 4 * hidden))
    width = float(config.get("head_dim") or hidden / heads)
    keys = float(config.get("num_key_value_heads") or heads)
    gemma = "gemma" in str(config.get("model_type"))
    per_layer = hidden * width * (2 * heads + 2 * keys) + (3 if gemma else 2) * hidden * inner
    tied = bool(config.get("tie_word_embeddings", gemma))
    return layers * per_layer, float(config.get("vocab_size", 0)) * hidden * (1 if tied else 2)


def _flops_per_second() -> float:
    a = np.ones((768, 768), dtype=np.float32)
    a @ a
    started = time.perf_counter()
    for _ in range(3):
        a @ a
    return 3 * 2 * 768**3 / (time.perf_counter() - started)


def _duration(seconds: float) -> str:
    for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds" if seconds >= 2 else "a second"
