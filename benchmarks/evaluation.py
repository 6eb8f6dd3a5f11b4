"""Time and memory of an evaluation against the number of cells.

    python benchmarks/evaluation.py [--cells 12500 25000 50000 100000] [--genes 5000] [--density 0.1] [--resamples 100]
                                    [--threads 1]

Simulated cells of 2 cell types with a control and 5 perturbations; the prediction is as large as the real cells. Each
size runs in a process of its own. Prints one line per size, then one JSON line with the exponent of time against cells
(1 is linear, less where a part is fixed) and a line fitted to the times: fixed seconds, and milliseconds per cell.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp


def cells(n: int, genes: int, density: float, seed: int) -> ad.AnnData:
    """Log-like values of random genes; some genes are higher under each perturbation."""
    rng = np.random.default_rng(seed)
    per_cell = int(genes * density)
    drug, kind = rng.integers(0, 6, n), rng.integers(0, 2, n)
    indices, data = np.empty((n, per_cell), dtype=np.int32), np.empty((n, per_cell), dtype=np.float32)
    for start in range(0, n, 1000):  # in blocks, so that the peak of memory is that of the cells
        rows = slice(start, min(n, start + 1000))
        indices[rows] = np.sort(rng.integers(0, genes, indices[rows].shape), axis=1)
        data[rows] = rng.gamma(2.0, 0.5, data[rows].shape)
        data[rows] += (indices[rows] // (genes // 6) == drug[rows, None]) & (drug[rows, None] > 0)
    matrix = sp.csr_matrix((data.ravel(), indices.ravel(), np.arange(n + 1, dtype=np.int64) * per_cell), (n, genes))
    matrix.sum_duplicates()
    obs = pd.DataFrame(
        {"drug": np.where(drug == 0, "control", np.char.add("drug", drug.astype(str))), "type": kind.astype(str)},
        index=[f"s{seed}c{row}" for row in range(n)],
    )
    return ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=[f"GENE{gene}" for gene in range(genes)]))


def measure(n: int, genes: int, density: float, resamples: int) -> dict[str, Any]:
    """Time and memory of one size, measured in this process."""
    from cell2sen.evaluation.evaluate import evaluate

    real, predicted = cells(n, genes, density, 0), cells(n, genes, density, 1)
    predicted = predicted[predicted.obs["drug"] != "control"].copy()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time(), time.perf_counter()
    options: dict[str, Any] = {"scale": "log1p", "real_scale": "log1p", "leaks": "report", "resamples": resamples}
    result = evaluate(predicted, real, task="perturb", perturbation="drug", context="type", **options)
    assert len(result.settings["groups"]) == 10
    return {
        "cells": n,
        "cpu_s": round(time.process_time() - start[0], 1),
        "wall_s": round(time.perf_counter() - start[1], 1),
        "data_gb": round(sum(cells.X.data.nbytes + cells.X.indices.nbytes for cells in (real, predicted)) / 1e9, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "peak_before_gb": round(before / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[12_500, 25_000, 50_000, 100_000])
    parser.add_argument("--genes", type=int, default=5_000)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--resamples", type=int, default=100, help="bootstrap samples of cells")
    # With one, CPU seconds do not depend on other processes of the machine.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.genes, arguments.density, arguments.resamples)))
        return
    rows = []
    settings = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(settings, str(arguments.threads))
    for n in arguments.cells:
        shape = [f"--genes={arguments.genes}", f"--density={arguments.density}", f"--resamples={arguments.resamples}"]
        command = [sys.executable, __file__, f"--one={n}", *shape]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    summary: dict[str, Any] = {"benchmark": "evaluation", "genes": arguments.genes, "density": arguments.density}
    summary |= {"resamples": arguments.resamples, "threads": arguments.threads, "rows": rows}
    if len(rows) > 1:
        n, cpu, peak = (np.array([row[name] for row in rows], dtype=float) for name in ("cells", "cpu_s", "peak_gb"))
        per_cell, fixed = np.polyfit(n, cpu, 1)
        summary |= {
            "time_exponent": round(float(np.polyfit(np.log(n), np.log(cpu), 1)[0]), 2),
            "cpu_s_fixed": round(float(fixed), 1),
            "cpu_ms_per_cell": round(1000 * float(per_cell), 3),
            "kb_per_cell": round(1e6 * float(np.polyfit(n, peak, 1)[0]), 1),
        }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
