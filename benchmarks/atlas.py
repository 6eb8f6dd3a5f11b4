"""Costs of a run in shards beside the same verb on whole files: CPU seconds, wall seconds and memory.

    python benchmarks/atlas.py WORK [--files CELLS.h5ad ...] [--cells 600] [--max-genes 100] [--workers 1 2]

One line of JSON per row. CPU seconds are those of all processes, so that a busy machine does not change them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from faults import make_inputs

WHOLE = """
import sys, anndata
import cell2sen as c2s
for file in sys.argv[3:]:
    adata = anndata.read_h5ad(file)
    c2s.tl.embed(adata, max_genes=int(sys.argv[1]), batch_size=16, backend=sys.argv[2], progress=False)
"""


def measured(name: str, *command: str, n_cells: int) -> None:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - started
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    row = {"row": name, "cpu_s": round(cpu, 1), "wall_s": round(wall, 1), "cells_per_cpu_s": round(n_cells / cpu, 1)}
    print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--files", type=Path, nargs="+")
    parser.add_argument("--cells", type=int, default=600, help="cells of all made files together")
    parser.add_argument("--max-genes", type=int, default=100)
    parser.add_argument("--backend", default="transformers")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=options.work, prefix="atlas-"))
    files = [str(file) for file in options.files or make_inputs(work, 3, options.cells // 3)]
    print(json.dumps({"row": "machine", "cores": os.cpu_count(), "load": np.round(os.getloadavg(), 1).tolist()}))
    n = None
    shared = ["--max-genes", str(options.max_genes), "--set", f"backend={options.backend}", "--batch-size", "16"]
    for workers in options.workers:
        out = str(work / f"run{workers}")
        plan = ["-m", "cell2sen", "plan", "embed", out, *files, "--shard-cells", "100", *shared]
        if n is None:
            subprocess.run([sys.executable, *plan], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            n = json.loads((Path(out) / "plan.json").read_text())["shards"]
            n = sum(stop - first for _, first, stop in n)
            measured("plan, again", *plan, n_cells=n)
            measured("whole files, tl.embed", "-c", WHOLE, str(options.max_genes), options.backend, *files, n_cells=n)
        else:
            subprocess.run([sys.executable, *plan], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        measured(f"run, {workers} processes", "-m", "cell2sen", "run", out, "--workers", str(workers), n_cells=n)
    measured("collect .zarr", "-m", "cell2sen", "collect", out, str(work / "all.zarr"), n_cells=n or 0)
    measured("collect .h5ad", "-m", "cell2sen", "collect", out, str(work / "all.h5ad"), n_cells=n or 0)
    measured("start of Python with cell2sen", "-c", "import cell2sen.atlas", n_cells=0)


if __name__ == "__main__":
    main()
