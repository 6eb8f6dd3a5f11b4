"""Guided generation beside transformers' unguided one, on the same weights and machine, in one run.

    python benchmarks/generation.py --data-dir FOLDER [--model DIR] [--cells 16] [--genes 200] [--out FILE.json]

Without ``--model`` a small model with about four tokens a gene is trained first (`bytes_model.py`). The peer is what
Helical 2.2.0 does for a perturbation: prompts padded on the left, ``model.generate(do_sample=False)``, transformers'
own attention, until the answer could hold as many genes, or ends. Both get the same prompts and write as many genes;
of the peer's words only those count that are genes of the data, each once. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import bytes_model
import numpy as np
import torch
import transformers

from cell2sen.answer import parse_sentence
from cell2sen.backend import Sampling
from cell2sen.inference.perturb import predict_sentences
from cell2sen.inference.session import load_model, start


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = run()
    return time.perf_counter() - begun, result


def peer(path: str, device: str) -> Callable[[list[str], int, int], tuple[list[str], int]]:
    """Texts behind prompts, Helical's way, and the passes that they took."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, padding_side="left")
    network = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).to(device).eval()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def write(prompts: list[str], batch_size: int, most: int) -> tuple[list[str], int]:
        texts, passes = [], 0
        for first in range(0, len(prompts), batch_size):
            inputs = tokenizer(prompts[first : first + batch_size], return_tensors="pt", padding=True).to(device)
            with torch.no_grad():
                output = network.generate(
                    **inputs, max_new_tokens=most, do_sample=False, pad_token_id=tokenizer.pad_token_id
                )
            new = output[:, inputs["input_ids"].shape[1] :]
            passes += new.shape[0] * new.shape[1]
            texts += tokenizer.batch_decode(new, skip_special_tokens=True)
        return texts, passes

    return write


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model")
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
    adata = ad.read_h5ad(arguments.data_dir / bytes_model.KANG)
    controls = adata[np.asarray(adata.obs["condition"] == "control")][: arguments.cells].copy()
    backend: Any = load_model(
        {
            "model": arguments.model, "dtype": "float32", "device": arguments.device, "progress": False,
            "batch_size": arguments.batch_size,
        }
    )  # fmt: skip
    session = start(controls, "perturb", {"model": backend, "progress": False})
    slots = [{"perturbation": "IFN-beta"}] * controls.n_obs
    known = session.sentences.symbols
    lists = session.sentences.gene_names(arguments.genes)
    prompts = [
        session.task.prompt(genes=genes, organism=organism, perturbation="IFN-beta")
        for genes, organism in zip(lists, session.sentences.organism, strict=True)
    ]
    asked = sum(map(len, lists))
    each = float(np.mean([len(ids) for ids in backend.tokens.continuations("CD4", known)]))

    def guided() -> Any:
        return predict_sentences(session, slots, sampling=Sampling(), n_genes=arguments.genes)

    write = peer(arguments.model, arguments.device)
    texts = [prompt.text for prompt in prompts]
    most = round(arguments.genes * each)
    ours, theirs = [], []
    for _ in range(arguments.runs):
        taken, found = seconds(guided)
        ours.append(asked / taken)
        work = backend.generator.work
        taken, (unguided, passes) = seconds(lambda: write(texts, arguments.batch_size, most))
        parsed = [parse_sentence(text, frozenset(known)) for text in unguided]
        theirs.append(sum(len(one.genes) for one in parsed) / taken)
        sys.stderr.write(f"genes per second: {ours[-1]:.1f} and {theirs[-1]:.1f}\n")
    words = sum(one.n_words for one in parsed)
    backend.generator.drafts = False
    plain = guided()
    forced = backend.generator.work
    backend.generator.drafts = True
    labels = ["B cells", "NK cells"]
    generate = start(controls, "generate", {"model": backend, "progress": False})
    drawn = [
        generate.task.prompt(
            organism="Homo sapiens", cell_type=label, key=f"{label}{number}", answer_genes=min(arguments.genes, 200)
        )
        for label in labels
        for number in range(arguments.cells // 2)
    ]
    backend.generate(drawn, Sampling(temperature=1.0), genes=known)
    sampled = backend.generator.work
    result = {
        "benchmark": "generation",
        "machine": {"device": arguments.device, "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "model": {"parameters": backend.network.num_parameters(), "tokens_per_gene": round(each, 2)},
        "cells": controls.n_obs, "genes": arguments.genes, "batch_size": arguments.batch_size, "runs": arguments.runs,
        "genes_per_second": {
            "guided_greedy": round(statistics.median(ours), 1),
            "peer_unguided_greedy": round(statistics.median(theirs), 1),
            "ratio": round(statistics.median(a / max(b, 1e-9) for a, b in zip(ours, theirs, strict=True)), 2),
            "bar": 5.0,
            "peer_words_per_second_valid_or_not": round(
                statistics.median(theirs) * words / max(1, sum(len(one.genes) for one in parsed)), 1
            ),
        },
        "validity": {
            "guided": 1.0, "peer": round(float(np.mean([one.validity for one in parsed])), 3),
        },
        "passes_per_gene": {
            "with_a_control_sentence": round(work.passes / work.genes, 2), "bar": 1.0,
            "with_a_control_sentence_tokens_read": round(work.read / work.genes, 2),
            "with_a_control_sentence_tokens_written": round(work.tokens / work.genes, 2),
            "forced_tokens_only": round(forced.passes / forced.genes, 2),
            "without_a_control_sentence_drawn": round(sampled.passes / sampled.genes, 2), "bar_without": 2.5,
            "peer_per_word": round(passes / max(words, 1), 2),
        },
        "guesses_change_nothing": plain.texts == found.texts,
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }  # fmt: skip
    line = json.dumps(result)
    print(line)
    if arguments.out:
        arguments.out.write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
