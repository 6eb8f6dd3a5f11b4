"""Time and peak memory of runs in shards at the size of an atlas: planning, opening, a million cells, a slice.

    python benchmarks/atlas_size.py WORK [--only planning opening million slice] [--planning 10000000]

One line of JSON per row; each step is a process of its own, whose CPU seconds and peak memory are measured. The cells
are blocks of made counts that repeat, written in parts, so that any number of them is made in minutes:

* planning: cells in five files with 60 columns of obs (categories, numbers, text), 20 values a cell;
* opening: one file with 5 and one with 500 columns of obs: opened, and the first 8,192 cells read;
* million: cells in five files, 500 values a cell, embedded by the fake backend (vectors without a model, so that what
  grows is ours), collected as .zarr, and 1,000 rows of that read by anndata's `read_lazy`;
* slice: one shard out of the middle of the same plan, with the embedded model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

#: Cells that are made; files repeat them.
BLOCK = 8192

PLAN = """
import sys
from cell2sen import atlas
verb, out, cells, *files = sys.argv[1:]
settings = {"backend": "fake"} if verb == "embed" else {"perturbation": "IFN-beta"}
settings |= {"shard_cells": int(cells)} if int(cells) else {}
plan = atlas.plan(verb, out, files, max_genes=20, progress=False, **settings)
print(len(plan.shards))
"""

OPEN = """
import sys, time
from cell2sen.data.files.rows import open_rows
started = time.process_time()
with open_rows(sys.argv[1]) as stored:
    opened = time.process_time() - started
    cells = stored.read(0, 8192)
    print(opened, time.process_time() - started, len(stored.names))
"""

WHOLE = """
import sys, time
from cell2sen.data.files.opening import open_anndata
started = time.process_time()
with open_anndata(sys.argv[1]) as adata:
    print(time.process_time() - started, 0, adata.obs.shape[1])
"""

LAZY = """
import sys, time, anndata
started = time.process_time()
cells = anndata.experimental.read_lazy(sys.argv[1])
opened = time.process_time() - started
vectors = cells[500_000 % cells.n_obs :][:1000].obsm["X_cell2sen"]
vectors = vectors.compute() if hasattr(vectors, "compute") else vectors
print(opened, time.process_time() - started, *vectors.shape)
"""

SLICE = """
import sys
from pathlib import Path
from cell2sen.atlas.plan_file import Plan
from cell2sen.atlas.worker import Worker
folder = Path(sys.argv[1])
worker = Worker(folder, plan := Plan.read(folder))
assert worker.do(len(plan.shards) // 2) is None
worker.close()
"""


def measured(row: str, *command: str, **settings: object) -> list[str]:
    """Run Python with a command, print CPU and wall seconds and peak memory; the words that it printed."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read().split()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{row} failed")
    line = {
        "row": row,
        **settings,
        "wall_s": round(time.monotonic() - started, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": usage.ru_maxrss // 1024,
    }
    if settings.get("printed"):
        line["printed"] = printed
    print(json.dumps(line), flush=True)
    return printed


def made(file: Path, n_cells: int, values: int, columns: int, seed: int = 0) -> Path:
    """:func:`make` in a process of its own: a small parent, whose memory would count as that of its children."""
    if not file.exists():
        command = [str(Path(__file__).absolute()), "--make", str(file), *map(str, (n_cells, values, columns, seed))]
        subprocess.run([sys.executable, *command], check=True)
    return file


def make(file: Path, n_cells: int, values: int, columns: int, seed: int, n_genes: int = 2000) -> None:
    """A file of counts of `values` genes a cell, with obs of `columns` columns."""
    import h5py
    import numpy as np
    import pandas as pd
    from anndata.io import write_elem

    from cell2sen.model import resolve

    genes = list((resolve().genes or ())[:n_genes])
    random = np.random.default_rng(seed)
    indices = np.argsort(random.random((BLOCK, len(genes)), dtype=np.float32))[:, :values]
    indices = np.sort(indices, axis=1).astype(np.int32).ravel()
    counts = (1 + random.poisson(random.lognormal(0, 1.5, indices.shape))).astype(np.float32)
    temporary = file.with_suffix(".tmp")
    with h5py.File(temporary, "w") as root:
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        matrix = root.create_group("X")
        matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        matrix.attrs["shape"] = (n_cells, len(genes))
        matrix["indptr"] = np.arange(n_cells + 1, dtype=np.int64) * values
        for name, block in (("indices", indices), ("data", counts)):
            stored = matrix.create_dataset(name, shape=(n_cells * values,), dtype=block.dtype, chunks=(2**18,))
            for first in range(0, n_cells * values, len(block)):
                part = block[: n_cells * values - first]
                stored[first : first + len(part)] = part
        write_elem(root, "var", pd.DataFrame(index=pd.Index(genes, dtype=object)))
        write_elem(root, "obs", obs_of(n_cells, columns, seed, random))
        write_elem(root, "uns", {"organism": "Homo sapiens"})
        for name in ("obsm", "varm", "obsp", "varp", "layers"):
            write_elem(root, name, {})
    temporary.rename(file)


def obs_of(n_cells: int, columns: int, seed: int, random):  # type: ignore[no-untyped-def]
    """Names and columns: half categories, a 20th text, the others numbers; one says which cells are controls."""
    import numpy as np
    import pandas as pd

    index = pd.Index([f"{seed}-{cell}" for cell in range(n_cells)], dtype=object)
    found: dict[str, object] = {}
    for place in range(columns):
        codes = random.integers(0, 20, n_cells).astype(np.int8)
        if place == 0:
            found["condition"] = pd.Categorical.from_codes(codes % 2, categories=["control", "IFN-beta"])
        elif place % 20 == 1:
            found[f"text{place}"] = np.array([f"batch-{place}-{value}" for value in range(20)], dtype=object)[codes]
        elif place % 2:
            found[f"category{place}"] = pd.Categorical.from_codes(codes, categories=[f"type {n}" for n in range(20)])
        else:
            found[f"number{place}"] = random.random(n_cells, dtype=np.float32)
    return pd.DataFrame(found, index=index)


def planning(work: Path, n_cells: int) -> None:
    """Plans over five files with many columns of obs."""
    files = [made(work / f"plan{n}.h5ad", n_cells // 5, 20, 60, seed=n) for n in range(5)]
    megabytes = sum(file.stat().st_size for file in files) // 2**20
    for verb in ("embed", "perturb"):
        out = str(fresh(work / f"run-{verb}"))
        (shards,) = measured_words(f"plan {verb}", PLAN, verb, out, "0", *files, cells=n_cells, files_mb=megabytes)
        print(json.dumps({"row": f"shards of plan {verb}", "shards": int(shards)}), flush=True)


def opening(work: Path, n_cells: int) -> None:
    """The same cells with 5 and with 500 columns of obs."""
    for columns in (5, 500):
        file = made(work / f"wide{columns}.h5ad", n_cells, 20, columns)
        for name, program in (("rows as a source", OPEN), ("obs read whole", WHOLE)):
            words = measured_words(name, program, file, cells=n_cells, columns=columns)
            seconds = {"open_cpu_s": round(float(words[0]), 3), "open_and_read_cpu_s": round(float(words[1]), 3)}
            print(json.dumps({"row": name, "columns": columns, **seconds}), flush=True)


def million(work: Path, n_cells: int) -> None:
    """Plan, run and collection with the fake backend."""
    files = [made(work / f"million{n}.h5ad", n_cells // 5, 500, 20, seed=n) for n in range(5)]
    out, target = fresh(work / "run-million"), fresh(work / "million.zarr")
    measured_words("plan", PLAN, "embed", str(out), "0", *files, cells=n_cells)
    measured("run", "-m", "cell2sen", "run", str(out), cells=n_cells)
    measured("status --verify", "-m", "cell2sen", "status", str(out), "--verify", cells=n_cells)
    measured("collect .zarr", "-m", "cell2sen", "collect", str(out), str(target), cells=n_cells)
    words = measured_words("read_lazy, 1,000 rows", LAZY, target, cells=n_cells)
    seconds = {"open_cpu_s": round(float(words[0]), 3), "open_and_read_cpu_s": round(float(words[1]), 3)}
    print(json.dumps({"row": "read_lazy", **seconds}), flush=True)


def slice_of_one(work: Path, n_cells: int) -> None:
    """One shard of 1,000 cells in the middle of a plan, with the embedded model."""
    files = [made(work / f"million{n}.h5ad", n_cells // 5, 500, 20, seed=n) for n in range(5)]
    out = fresh(work / "run-slice")
    program = PLAN.replace('{"backend": "fake"}', "{}").replace("max_genes=20", "max_genes=200")
    measured_words("plan, embedded model", program, "embed", str(out), "1000", *files, cells=n_cells)
    measured_words("one shard of 1,000 cells, embedded model", SLICE, out, cells=1000)


def measured_words(row: str, program: str, *words: object, **settings: object) -> list[str]:
    """:func:`measured` of a program."""
    return measured(row, "-c", program, *map(str, words), **settings)


def fresh(folder: Path) -> Path:
    """A place where nothing is."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    return folder


ROWS = {"planning": planning, "opening": opening, "million": million, "slice": slice_of_one}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=ROWS)
    parser.add_argument("--planning", type=int, default=10_000_000, help="cells of the row planning")
    parser.add_argument("--opening", type=int, default=500_000, help="cells of the row opening")
    parser.add_argument("--million", type=int, default=1_000_000, help="cells of the rows million and slice")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print(json.dumps({"row": "machine", "cores": os.cpu_count(), "load": [round(load, 1) for load in os.getloadavg()]}))
    sizes = {"planning": options.planning, "opening": options.opening, "million": options.million}
    for name in options.only:
        ROWS[name](options.work, sizes.get(name, options.million))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        make(Path(sys.argv[2]), *map(int, sys.argv[3:]))
    else:
        main()
