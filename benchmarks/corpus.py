"""Time, memory and disk of a corpus: cells with the sparsity of 10x data, for each task and for a mixture.

    python benchmarks/corpus.py --cells 100000 --folder FOLDER

The first 5,000 cells are Poisson draws of random programmes, about 2,000 expressed genes each; the others have their
counts thinned to 60 to 100 %. The result is a Markdown table: each row is a build in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

#: Task → samples per cell, in each build.
BUILDS: dict[str, dict[str, float]] = {
    "annotate (200 genes)": {"annotate": 1},
    "generate (200 genes)": {"generate": 1},
    "sample_cell_types (100 genes per cell)": {"sample_cell_types": 1},
    "mixture": {"annotate": 1, "generate": 0.5, "sample_cell_types": 1, "sample_from_types": 0.5, "interpret": 1},
}

LENGTHS = {"annotate": 200, "generate": 200}


def write_cells(path: Path, n_cells: int, symbols: list[str], seed: int = 0) -> None:
    """Write counts in blocks, with a cell type and a donor for each cell."""
    import h5py
    import pandas as pd
    import scipy.sparse as sp
    from anndata import AnnData
    from anndata.io import sparse_dataset, write_elem

    generator = np.random.default_rng(seed)
    types = np.array([f"type {number}" for number in range(30)])
    rates = np.exp(generator.normal(-3.2, 1.7, len(symbols)) + generator.normal(0, 0.7, (30, len(symbols))))
    n_first = min(5000, n_cells)
    kind = generator.integers(30, size=n_first)
    depth = generator.lognormal(0, 0.35, (n_first, 1))
    parts = [slice(row, row + 500) for row in range(0, n_first, 500)]
    first = sp.vstack(
        [sp.csr_matrix(generator.poisson(rates[kind[part]] * depth[part])) for part in parts], format="csr"
    )
    for start in range(0, n_cells, 5000):
        counts = first[: n_cells - start].astype(np.float32)
        if start:
            kept = np.repeat(generator.uniform(0.6, 1, counts.shape[0]), np.diff(counts.indptr))
            counts.data = generator.binomial(counts.data.astype(np.int64), kept).astype(np.float32)
            counts.eliminate_zeros()
        if not start:
            names = pd.DataFrame(index=[f"cell{row:07d}" for row in range(n_cells)])
            names["cell_type"] = np.resize(types[kind], n_cells)
            names["donor"] = [f"donor {row // 2500}" for row in range(n_cells)]
            block = AnnData(counts, obs=names[: counts.shape[0]].copy(), var=pd.DataFrame(index=symbols))
            block.uns["organism"] = "Homo sapiens"
            block.write_h5ad(path)
            continue
        with h5py.File(path, "r+") as file:
            sparse_dataset(file["X"]).append(counts)
    with h5py.File(path, "r+") as file:
        write_elem(file, "obs", names.astype("category"))


def build(cells: Path, out: Path, tasks: dict[str, float], model: str) -> dict[str, Any]:
    """Build a corpus; seconds, peak memory and counts."""
    from cell2sen.training.config.training_file import build as settings_of
    from cell2sen.training.corpus.build import build_corpus
    from cell2sen.training.corpus.settings import CorpusConfig

    file: dict[str, Any] = {
        "file": cells.name,
        "tasks": tasks,
        "cell_type": "cell_type",
        "columns": {"sample": "donor"},
    }
    file["texts"] = {"summary": "Cells of many types from several donors, drawn at random."}
    settings = {"files": [file], "lengths": LENGTHS, "model": model, "max_tokens": 8192}
    config = settings_of(CorpusConfig, settings)
    began = time.perf_counter()
    build_corpus(config, out, base=cells.parent, progress=False)
    return {
        "seconds": time.perf_counter() - began,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "disk": sum(path.stat().st_size for path in out.iterdir()) / 2**20,
        **_counts(out),
    }


def _counts(out: Path) -> dict[str, int]:
    import pyarrow.parquet as pq

    samples = tokens = 0
    for path in out.glob("*.parquet"):
        table = pq.read_table(path, columns=["prompt_tokens", "completion_tokens"]).to_pandas()
        samples, tokens = samples + len(table), tokens + int(table.to_numpy().sum())
    return {"samples": samples, "tokens": tokens}


def main() -> None:
    """Measure each build in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--only", help="name of one build, measured in this process")
    parser.add_argument("--builds", nargs="*", default=list(BUILDS))
    arguments = parser.parse_args()
    file = arguments.folder / f"cells{arguments.cells}.h5ad"
    if arguments.only:
        out = arguments.folder / f"corpus-{list(BUILDS).index(arguments.only)}"
        print(json.dumps(build(file, out, BUILDS[arguments.only], arguments.model)))
        return
    if not file.exists():
        from cell2sen.model import resolve

        arguments.folder.mkdir(parents=True, exist_ok=True)
    write_cells(file, arguments.cells, list(resolve(arguments.model).genes or ())[:20_000])
    print(f"{arguments.cells:,} cells, {file.stat().st_size / 2**20:,.0f} MB")
    print(
        "| tasks | seconds | samples | tokens | MB on disk | peak memory, GB |\n| --- | --- | --- | --- | --- | --- |"
    )
    for name in arguments.builds:
        command = [sys.executable, __file__, "--only", name, "--cells", str(arguments.cells)]
        command += ["--folder", str(arguments.folder), "--model", arguments.model]
        found = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        )
        numbers = f"{found['seconds']:.0f} | {found['samples']:,} | {found['tokens']:,} | {found['disk']:.0f}"
        print(f"| {name} | {numbers} | {found['memory']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
