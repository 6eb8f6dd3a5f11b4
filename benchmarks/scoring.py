"""Speed of choosing among labels by their probability, beside one free generation per cell on the same weights.

    python benchmarks/scoring.py --data-dir FOLDER [--model DIR] [--cells 16] [--labels 5 50 500] [--out FILE.json]

The peer is what cell2sentence 1.2.0 does to annotate: one ``model.generate`` per cell, greedy, here with 20 new tokens.
``label_by_label`` is the plain way to the same probabilities: prompt and label read anew for each label. Prints one
JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import bytes_model
import numpy as np
import torch
import transformers

from cell2sen.inference.session import load_model, start
from cell2sen.prompt import Prompt


def names(n: int) -> list[str]:
    """Labels with common beginnings, like names of cell types."""
    kinds = ["B cell", "T cell", "NK cell", "monocyte", "dendritic cell", "megakaryocyte", "neutrophil", "mast cell"]
    kinds += ["fibroblast", "epithelial cell"]
    states = ["", "naive ", "memory ", "activated ", "CD4+ ", "CD8+ ", "CD14+ ", "FCGR3A+ ", "immature ", "cycling "]
    places = ["", " of the blood", " of the lung", " of the liver", " of the gut", " of the skin"]
    return [f"{state}{kind}{place}" for place in places for state in states for kind in kinds][:n]


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Wall time of a call, and its result."""
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Median over runs of slow / fast."""
    return round(statistics.median(a / b for a, b in zip(slow, fast, strict=True)), 2)


class Peer:
    """transformers' model, one cell at a time."""

    def __init__(self, arguments: argparse.Namespace, prompts: list[Prompt]) -> None:
        self.prompts, self.device, self.new_tokens = prompts, arguments.device, arguments.new_tokens
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
        network = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
        self.network = network.to(arguments.device).eval()

    @torch.no_grad()
    def generate(self, min_new_tokens: int = 0) -> int:
        """Generate once per cell; returns the number of new tokens."""
        written = 0
        for prompt in self.prompts:
            inputs = self.tokenizer(prompt.text, return_tensors="pt").to(self.device)
            output = self.network.generate(
                **inputs,
                max_new_tokens=self.new_tokens,
                min_new_tokens=min_new_tokens,
                do_sample=False,
                pad_token_id=self.tokenizer.eos_token_id,
            )
            written += output.shape[1] - inputs["input_ids"].shape[1]
        return written

    @torch.no_grad()
    def read_prompts(self) -> None:
        """Compute the hidden states of the prompts alone, which every way of scoring needs."""
        for prompt in self.prompts:
            self.network.base_model(**self.tokenizer(prompt.text, return_tensors="pt").to(self.device))

    @torch.no_grad()
    def label_by_label(self, tokens: Any, answers: list[str]) -> np.ndarray:
        """Log-likelihoods of the answers to the first prompt, float64 (1, answers)."""
        scores = np.zeros((1, len(answers)))
        [prompt] = tokens.encode(self.prompts[:1])
        for column, answer in enumerate(answers):
            [row] = tokens.encode(self.prompts[:1], [answer])
            ids = torch.from_numpy(row.ids)[None].to(self.device)
            log_probability = self.network(ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
            scores[0, column] = float(log_probability.gather(1, ids[0, len(prompt) :, None]).sum())
        return scores


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All numbers of the JSON line."""
    cells = ad.read_h5ad(arguments.data_dir / bytes_model.KANG)[: arguments.cells].copy()
    options = {"model": arguments.model, "dtype": "float32", "device": arguments.device, "progress": False}
    backend: Any = load_model(options)  # type: ignore[arg-type]
    session = start(cells, "annotate", {"model": backend, "progress": False})
    lists = session.sentences.gene_names(arguments.genes)
    prompts = [session.task.prompt(genes=genes, organism="Homo sapiens") for genes in lists]
    answers = {n: [session.task.complete(variant=0, cell_type=name) for name in names(n)] for n in arguments.labels}
    peer = Peer(arguments, prompts)
    stopping: list[float] = []
    not_stopping: list[float] = []
    reading: list[float] = []
    ours: dict[int, list[float]] = {n: [] for n in answers}
    for _ in range(arguments.runs):
        duration, written = seconds(peer.generate)
        stopping.append(duration)
        not_stopping.append(seconds(lambda: peer.generate(arguments.new_tokens))[0])
        reading.append(seconds(peer.read_prompts)[0])
        for n, texts in answers.items():
            ours[n].append(seconds(lambda texts=texts: backend.score(prompts, texts))[0])
        scoring = {n: round(times[-1], 2) for n, times in ours.items()}
        sys.stderr.write(f"generation {stopping[-1]:.2f} s, scoring {scoring}\n")
    labels = {}
    for n, times in ours.items():
        sample = answers[n][:: max(1, n // 20)]
        duration, scores = seconds(lambda sample=sample: peer.label_by_label(backend.tokens, sample))
        labels[str(n)] = {
            "cells_per_second": round(len(prompts) / statistics.median(times), 2),
            "one_generation_per_cell": round(len(prompts) / statistics.median(stopping), 2),
            "ratio": median_ratio(stopping, times),
            "ratio_to_generation_that_does_not_stop": median_ratio(not_stopping, times),
            "label_by_label_cells_per_second": round(len(sample) / n / duration, 3),
            "largest_difference": float(np.abs(backend.score(prompts[:1], sample) - scores).max()),
        }
    return {
        "labels": labels,
        "new_tokens_until_the_end": round(written / len(prompts), 1),
        # The limit of scoring, unless prompts are read faster than by transformers.
        "ratio_of_reading_the_prompts_alone": median_ratio(stopping, reading),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", help="a model of bytes_model.py; trained by default")
    parser.add_argument("--cells", type=int, default=16)
    parser.add_argument("--genes", type=int, default=200)
    parser.add_argument("--labels", type=int, nargs="+", default=[5, 50, 500])
    parser.add_argument("--new-tokens", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.model is None:
        folder = Path(tempfile.mkdtemp()) / "bytes"
        arguments.model = str(bytes_model.make(folder, arguments.data_dir))
    result = {
        "benchmark": "scoring",
        "machine": {"device": arguments.device, "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "cells": arguments.cells,
        "genes": arguments.genes,
        "runs": arguments.runs,
        "new_tokens": arguments.new_tokens,
        "target_at_50_labels": 3.0,
    } | measure(arguments)
    result["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    line = json.dumps(result)
    print(line)
    if arguments.out:
        arguments.out.write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
