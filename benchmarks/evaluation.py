"""Time and memory of an evaluation against the number of cells: each size in a process of its own.

    python benchmarks/evaluation.py [--cells 12500 25000 50000 100000] [--genes 5000] [--density 0.1] [--resamples 100]

Made-up cells of 2 cell types under a control and 5 perturbations; the prediction is as large as the real cells. Prints
one line a size, then one JSON line with the exponent of time against cells (1 is linear, less where a part is fixed),
and the straight line through times: seconds that do not depend on the cells, and milliseconds a cell.
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
    """Log-like values at random places, some genes higher under each perturbation."""
    rng = np.random.default_rng(seed)
    per_cell = int(genes * density)
    drug, kind = rng.integers(0, 6, n), rng.integers(0, 2, n)
    indices, data = np.empty((n, per_cell), dtype=np.int32), np.empty((n, per_cell), dtype=np.float32)
    for start in range(0, n, 1000):  # so that making the cells takes no more memory than the cells
        some = slice(start, min(n, start + 1000))
        indices[some] = np.sort(rng.integers(0, genes, indices[some].shape), axis=1)
        data[some] = rng.gamma(2.0, 0.5, data[some].shape)
        data[some] += (indices[some] // (genes // 6) == drug[some, None]) & (drug[some, None] > 0)
    matrix = sp.csr_matrix((data.ravel(), indices.ravel(), np.arange(n + 1, dtype=np.int64) * per_cell), (n, genes))
    matrix.sum_duplicates()
    obs = pd.DataFrame(
        {"drug": np.where(drug == 0, "control", np.char.add("drug", drug.astype(str))), "type": kind.astype(str)},
        index=[f"s{seed}c{row}" for row in range(n)],
    )
    return ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=[f"GENE{gene}" for gene in range(genes)]))


def measure(n: int, genes: int, density: float, resamples: int) -> dict[str, Any]:
    """One size, in this process."""
    from cell2sen.evaluation.evaluate import evaluate

    real, predicted = cells(n, genes, density, 0), cells(n, genes, density, 1)
    predicted = predicted[predicted.obs["drug"] != "control"].copy()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time(), time.perf_counter()
    options: dict[str, Any] = {"scale": "log1p", "real_scale": "log1p", "leaks": "report", "resamples": resamples}
    found = evaluate(predicted, real, task="perturb", perturbation="drug", context="type", **options)
    assert len(found.settings["groups"]) == 10
    return {
        "cells": n,
        "cpu_s": round(time.process_time() - start[0], 1),
        "wall_s": round(time.perf_counter() - start[1], 1),
        "data_gb": round(sum(one.X.data.nbytes + one.X.indices.nbytes for one in (real, predicted)) / 1e9, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "peak_before_gb": round(before / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[12_500, 25_000, 50_000, 100_000])
    parser.add_argument("--genes", type=int, default=5_000)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--resamples", type=int, default=100, help="bootstrap samples of cells")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.one, asked.genes, asked.density, asked.resamples)))
        return
    rows = []
    # One thread: seconds of a processor that is shared by others then say what the work costs.
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    for n in asked.cells:
        shape = [f"--genes={asked.genes}", f"--density={asked.density}", f"--resamples={asked.resamples}"]
        command = [sys.executable, __file__, f"--one={n}", *shape]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    found: dict[str, Any] = {"benchmark": "evaluation", "genes": asked.genes, "density": asked.density}
    found |= {"resamples": asked.resamples, "rows": rows}
    if len(rows) > 1:
        n, cpu, peak = (np.array([row[name] for row in rows], dtype=float) for name in ("cells", "cpu_s", "peak_gb"))
        per_cell, fixed = np.polyfit(n, cpu, 1)
        found |= {
            "time_exponent": round(float(np.polyfit(np.log(n), np.log(cpu), 1)[0]), 2),
            "cpu_s_fixed": round(float(fixed), 1),
            "cpu_ms_per_cell": round(1000 * float(per_cell), 3),
            "kb_per_cell": round(1e6 * float(np.polyfit(n, peak, 1)[0]), 1),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
