"""Annotation beside embedding of the same cells: processor seconds, and labels beside those of exact log-probabilities.

    python benchmarks/annotate_beside_embed.py cells.h5ad [--model nano] [--cells 200] [--labels "B cell; NK cell"]

`annotate` chooses among all default labels of the model, and among the offered ones. One thread; one warm-up run.
Prints one JSON line: seconds (lowest of the runs), ratios of each run and their median, and the largest difference from
the probabilities with every sum over the vocabulary.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import torch

import cell2sen as c2s
from cell2sen.inference import annotate
from cell2sen.inference.session import load_model

OFFERED = "B cell; NK cell; CD4 T cell; CD8 T cell; CD14+ monocyte; dendritic cell"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--labels", default=OFFERED)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    cells = ad.read_h5ad(args.file)[: args.cells].copy()
    options = {"model": load_model({"model": args.model, "progress": False}), "progress": False}
    verbs = {
        "embed": lambda adata: c2s.tl.embed(adata, **options),
        "annotate": lambda adata: c2s.tl.annotate(adata, **options),
        "annotate_offered": lambda adata: c2s.tl.annotate(adata, args.labels, **options),
    }
    seconds: dict[str, list[float]] = {name: [] for name in verbs}
    for _ in range(args.runs + 1):
        for name, run in verbs.items():
            adata = cells.copy()
            started = time.process_time()
            run(adata)
            seconds[name].append(time.process_time() - started)
    timed = {name: values[1:] for name, values in seconds.items()}
    ratios = {
        name: [own / of_embed for own, of_embed in zip(timed[name], timed["embed"], strict=True)]
        for name in ("annotate", "annotate_offered")
    }

    bounded, exact = cells.copy(), cells.copy()
    verbs["annotate"](bounded)
    annotate.NEGLIGIBLE = np.inf
    verbs["annotate"](exact)
    found, expected = (c2s.tl.probabilities(each).to_numpy() for each in (bounded, exact))
    print(
        json.dumps(
            {
                "cells": cells.n_obs,
                "labels": expected.shape[1],
                "seconds": {name: round(min(values), 3) for name, values in timed.items()},
                "ratios": {name: [round(value, 2) for value in sorted(values)] for name, values in ratios.items()},
                "median": {name: round(statistics.median(values), 2) for name, values in ratios.items()},
                "largest_difference": float(np.nanmax(np.abs(found - expected))),
                "other_labels": int((found.argmax(axis=1) != expected.argmax(axis=1)).sum()),
            }
        )
    )


if __name__ == "__main__":
    main()
