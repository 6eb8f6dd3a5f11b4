"""Choosing among labels by their probability beside one free generation per cell, on the same weights, in one run.

    python benchmarks/scoring.py --data-dir FOLDER [--model DIR] [--cells 16] [--labels 5 50 500] [--out FILE.json]

The peer is what cell2sentence 1.2.0 does to annotate: one ``model.generate`` per cell, greedy, here with 20 new tokens.
``label_by_label`` is the plain way to the same probabilities: prompt and label read anew for each. One JSON line.
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

from cell2sen.inference.session import load_model, start


def names(n: int) -> list[str]:
    """Labels with common beginnings, as cell types have them."""
    kinds = ["B cell", "T cell", "NK cell", "monocyte", "dendritic cell", "megakaryocyte", "neutrophil", "mast cell",
             "fibroblast", "epithelial cell"]  # fmt: skip
    states = ["", "naive ", "memory ", "activated ", "CD4+ ", "CD8+ ", "CD14+ ", "FCGR3A+ ", "immature ", "cycling "]
    places = ["", " of the blood", " of the lung", " of the liver", " of the gut", " of the skin"]
    return [f"{state}{kind}{place}" for place in places for state in states for kind in kinds][:n]


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = run()
    return time.perf_counter() - begun, result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model")
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
    cells = ad.read_h5ad(arguments.data_dir / bytes_model.KANG)[: arguments.cells].copy()
    options = {"model": arguments.model, "dtype": "float32", "device": arguments.device, "progress": False}
    backend: Any = load_model(options)  # type: ignore[arg-type]
    session = start(cells, "annotate", {"model": backend, "progress": False})
    lists = session.sentences.gene_names(arguments.genes)
    prompts = [session.task.prompt(genes=genes, organism="Homo sapiens") for genes in lists]
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    network = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    network = network.to(arguments.device).eval()

    @torch.no_grad()
    def one_generation_per_cell(shortest: int = 0) -> int:
        """Tokens that were written."""
        written = 0
        for prompt in prompts:
            inputs = tokenizer(prompt.text, return_tensors="pt").to(arguments.device)
            output = network.generate(
                **inputs, max_new_tokens=arguments.new_tokens, min_new_tokens=shortest, do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
            written += output.shape[1] - inputs["input_ids"].shape[1]
        return written

    @torch.no_grad()
    def prompts_alone() -> None:
        for prompt in prompts:
            network.base_model(**tokenizer(prompt.text, return_tensors="pt").to(arguments.device))

    @torch.no_grad()
    def label_by_label(answers: list[str]) -> np.ndarray:
        scores = np.zeros((1, len(answers)))
        [begin] = backend.tokens.encode(prompts[:1])
        for column, answer in enumerate(answers):
            [row] = backend.tokens.encode(prompts[:1], [answer])
            ids = torch.from_numpy(row.ids)[None].to(arguments.device)
            shares = network(ids).logits[0, len(begin) - 1 : -1].double().log_softmax(-1)
            scores[0, column] = float(shares.gather(1, ids[0, len(begin) :, None]).sum())
        return scores

    result: dict[str, Any] = {
        "benchmark": "scoring",
        "machine": {"device": arguments.device, "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "cells": cells.n_obs, "genes": arguments.genes, "runs": arguments.runs, "new_tokens": arguments.new_tokens,
        "bar_at_50_labels": 3.0, "labels": {},
    }  # fmt: skip
    peers: list[float] = []
    whole: list[float] = []
    alone: list[float] = []
    taken: dict[int, list[float]] = {n: [] for n in arguments.labels}
    for _ in range(arguments.runs):
        duration, written = seconds(one_generation_per_cell)
        peers.append(duration)
        whole.append(seconds(lambda: one_generation_per_cell(arguments.new_tokens))[0])
        alone.append(seconds(prompts_alone)[0])
        for n in arguments.labels:
            answers = [session.task.complete(variant=0, cell_type=name) for name in names(n)]
            taken[n].append(seconds(lambda answers=answers: backend.score(prompts, answers))[0])
        sys.stderr.write(f"generation {peers[-1]:.2f} s, { ({n: round(each[-1], 2) for n, each in taken.items()}) }\n")
    for n, each in taken.items():
        answers = [session.task.complete(variant=0, cell_type=name) for name in names(n)]
        few = answers[:: max(1, n // 20)]
        plain, wanted = seconds(lambda few=few: label_by_label(few))
        result["labels"][str(n)] = {
            "cells_per_second": round(len(prompts) / statistics.median(each), 2),
            "one_generation_per_cell": round(len(prompts) / statistics.median(peers), 2),
            "ratio": round(statistics.median(a / b for a, b in zip(peers, each, strict=True)), 2),
            "ratio_to_generation_that_does_not_stop": round(
                statistics.median(a / b for a, b in zip(whole, each, strict=True)), 2
            ),
            "label_by_label_cells_per_second": round(len(few) / n / plain, 3),
            "largest_difference": float(np.abs(backend.score(prompts[:1], few) - wanted).max()),
        }
    result["new_tokens_until_the_end"] = round(written / len(prompts), 1)
    # What no way of scoring can beat, unless it reads prompts faster than transformers does.
    result["ratio_of_reading_the_prompts_alone"] = round(
        statistics.median(a / b for a, b in zip(peers, alone, strict=True)), 2
    )
    result["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    line = json.dumps(result)
    print(line)
    if arguments.out:
        arguments.out.write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
