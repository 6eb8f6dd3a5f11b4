"""Guided generation beside transformers' unguided generation, on the same weights and machine.

    python benchmarks/generation.py --data-dir FOLDER [--model DIR] [--cells 16] [--genes 200] [--out FILE.json]

Without ``--model`` a small model with about four tokens per gene is trained first (`bytes_model.py`). The peer is what
Helical 2.2.0 does for a perturbation: prompts padded on the left, ``model.generate(do_sample=False)``, transformers'
own attention, until the answer ends or has as many tokens as that many genes. Both have the same prompts. Of the peer's
words only genes of the data count, each once. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import bytes_model
import numpy as np
import torch
import transformers
from scoring import seconds

from cell2sen.answer import parse_sentence
from cell2sen.backend import Sampling
from cell2sen.inference.responses.perturb import predict_sentences
from cell2sen.inference.session import load_model, start

LABELS = ("B cells", "NK cells")


def peer(path: str, device: str) -> Callable[[list[str], int, int], tuple[list[str], int]]:
    """Generation in Helical's way: a function of prompts, batch size and new tokens; returns texts and passes."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, padding_side="left")
    network = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).to(device).eval()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def write(prompts: list[str], batch_size: int, max_new_tokens: int) -> tuple[list[str], int]:
        texts, passes = [], 0
        for first in range(0, len(prompts), batch_size):
            inputs = tokenizer(prompts[first : first + batch_size], return_tensors="pt", padding=True).to(device)
            with torch.no_grad():
                output = network.generate(
                    **inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
                )
            new = output[:, inputs["input_ids"].shape[1] :]
            passes += new.shape[0] * new.shape[1]
            texts += tokenizer.batch_decode(new, skip_special_tokens=True)
        return texts, passes

    return write


def drawn_from_labels(backend: Any, controls: ad.AnnData, genes: tuple[str, ...], arguments: argparse.Namespace) -> Any:
    """Passes, tokens and genes of cells that are generated from a cell type, without a control sentence."""
    session = start(controls, "generate", {"model": backend, "progress": False})
    prompts = [
        session.task.prompt(
            organism="Homo sapiens", cell_type=label, key=f"{label}{number}", answer_genes=min(arguments.genes, 200)
        )
        for label in LABELS
        for number in range(arguments.cells // 2)
    ]
    backend.generate(prompts, Sampling(temperature=1.0), genes=genes)
    return backend.generator.work


def control_cells(arguments: argparse.Namespace) -> ad.AnnData:
    """The first control cells of Kang et al."""
    adata = ad.read_h5ad(arguments.data_dir / bytes_model.KANG)
    return adata[np.asarray(adata.obs["condition"] == "control")][: arguments.cells].copy()


def passes_per_gene(work: Any, forced: Any, drawn: Any, peer_per_word: float) -> dict[str, float]:
    """Forward passes and tokens per gene: with drafts, without drafts, without a control sentence, of the peer."""
    return {
        "with_a_control_sentence": round(work.passes / work.genes, 2),
        "target": 1.0,
        "with_a_control_sentence_tokens_read": round(work.read / work.genes, 2),
        "with_a_control_sentence_tokens_written": round(work.tokens / work.genes, 2),
        "forced_tokens_only": round(forced.passes / forced.genes, 2),
        "without_a_control_sentence_drawn": round(drawn.passes / drawn.genes, 2),
        "target_without": 2.5,
        "peer_per_word": round(peer_per_word, 2),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All numbers of the JSON line."""
    controls = control_cells(arguments)
    options = {"model": arguments.model, "device": arguments.device, "batch_size": arguments.batch_size}
    backend: Any = load_model({**options, "dtype": "float32", "progress": False})
    session = start(controls, "perturb", {"model": backend, "progress": False})
    slots = [{"perturbation": "IFN-beta"}] * controls.n_obs
    known = session.sentences.symbols
    lists = session.sentences.gene_names(arguments.genes)
    prompts = [
        session.task.prompt(genes=genes, organism=organism, perturbation="IFN-beta")
        for genes, organism in zip(lists, session.sentences.organism, strict=True)
    ]
    texts = [prompt.text for prompt in prompts]
    n_genes = sum(map(len, lists))
    tokens_per_gene = float(np.mean([len(ids) for ids in backend.tokens.continuations("CD4", known)]))
    max_new_tokens = round(arguments.genes * tokens_per_gene)

    def guided() -> Any:
        return predict_sentences(session, slots, sampling=Sampling(), n_genes=arguments.genes)

    write = peer(arguments.model, arguments.device)
    ours, theirs = [], []
    for _ in range(arguments.runs):
        duration, predicted = seconds(guided)
        ours.append(n_genes / duration)
        work = backend.generator.work
        duration, (unguided, passes) = seconds(lambda: write(texts, arguments.batch_size, max_new_tokens))
        parsed = [parse_sentence(text, frozenset(known)) for text in unguided]
        theirs.append(sum(len(sentence.genes) for sentence in parsed) / duration)
        sys.stderr.write(f"genes per second: {ours[-1]:.1f} and {theirs[-1]:.1f}\n")
    backend.generator.drafts = False
    without_drafts = guided()
    forced = backend.generator.work
    backend.generator.drafts = True
    drawn = drawn_from_labels(backend, controls, known, arguments)
    words = sum(sentence.n_words for sentence in parsed)
    valid = sum(len(sentence.genes) for sentence in parsed)
    ratios = [our / max(their, 1e-9) for our, their in zip(ours, theirs, strict=True)]
    return {
        "model": {"parameters": backend.network.num_parameters(), "tokens_per_gene": round(tokens_per_gene, 2)},
        "genes_per_second": {
            "guided_greedy": round(statistics.median(ours), 1),
            "peer_unguided_greedy": round(statistics.median(theirs), 1),
            "ratio": round(statistics.median(ratios), 2),
            "target": 5.0,
            "peer_words_per_second_valid_or_not": round(statistics.median(theirs) * words / max(1, valid), 1),
        },
        "validity": {"guided": 1.0, "peer": round(float(np.mean([sentence.validity for sentence in parsed])), 3)},
        "passes_per_gene": passes_per_gene(work, forced, drawn, passes / max(words, 1)),
        "drafts_change_nothing": without_drafts.texts == predicted.texts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", help="a model of bytes_model.py; trained by default")
    parser.add_argument("--cells", type=int, default=16)
    parser.add_argument("--genes", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.model is None:
        folder = Path(tempfile.mkdtemp()) / "bytes"
        arguments.model = str(bytes_model.make(folder, arguments.data_dir))
    result = {
        "benchmark": "generation",
        "machine": {"device": arguments.device, "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "cells": arguments.cells,
        "genes": arguments.genes,
        "batch_size": arguments.batch_size,
        "runs": arguments.runs,
    } | measure(arguments)
    result["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    line = json.dumps(result)
    print(line)
    if arguments.out:
        arguments.out.write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
