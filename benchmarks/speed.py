"""Speed and memory beside other packages: same weights, tokenizer, cells and machine.

    python benchmarks/speed.py --peers .venv-peers/bin/python [--out FILE.jsonl] [--only ROW …] [--tiny]

Each package runs in a process of its own, one after the other; each job runs once to warm up, then `--runs` times.
Prints one JSON line per row: median seconds, their ratio (per gene, where packages write different numbers of genes),
peak memory, and the difference of the results. `make bench` installs the other packages and calls this.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scoring
import speed_data

HERE = Path(__file__).parent
TEMPLATE = (
    "Below are the genes of one Homo sapiens cell, strongest first.\nCell sentence: {cell_sentence}.\nThe cell type is:"
)


class Bench:
    """The rows of the benchmark, one method each."""

    def __init__(self, arguments: argparse.Namespace, work: Path) -> None:
        self.peers, self.runs, self.tiny, self.work = arguments.peers, arguments.runs, arguments.tiny, work
        self.scale, self.data_dir, self.model = arguments.scale, arguments.data_dir, arguments.model
        self.burners = arguments.burners
        self.sizes = speed_data.TINY if self.tiny else speed_data.SMALL
        self.n_genes = 300 if self.tiny else 20_000
        self.out = arguments.out

    def scaled(self, n: int) -> int:
        """Number of cells or prompts after `--scale`."""
        return max(1, int(n * self.scale))

    def measured(self, package: str, job: dict) -> dict | None:
        """Result of one job of one package; None without the environment of the other packages.

        A failure of another package is reported in the result, with the end of its stderr printed.
        """
        ours = package in ("cell2sen", "tokenizers")
        if not ours and self.peers is None:
            return None
        file = self.work / "job.json"
        file.write_text(json.dumps(job | {"runs": self.runs}))
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        if not ours:
            environment.pop("PYTHONPATH", None)
        with burning(self.burners):
            done = subprocess.run(
                [sys.executable if ours else str(self.peers), str(HERE / "speed_worker.py"), package, str(file)],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            if ours:
                raise RuntimeError(done.stderr)
            sys.stderr.write(f"{package} failed:\n{done.stderr[-2000:]}\n")
            return {"package": package, "failed": done.stderr.strip().splitlines()[-1]}
        return json.loads(done.stdout.strip().splitlines()[-1])

    def row(self, name: str, job: dict, peers: list[str], compare, peer_job: dict | None = None, **settings) -> None:
        """Measure, compare and print one row; `peer_job` replaces entries of the job for other packages."""
        ours = self.measured("cell2sen", job)
        beside = {"burners": self.burners} if self.burners else {}
        line = {"row": name, **settings, **beside, "runs": self.runs, "cell2sen": summary(ours)}
        for peer in peers:
            theirs = self.measured(peer, job | (peer_job or {}))
            if theirs is None:
                continue
            if "failed" in theirs:
                line[peer] = theirs
                continue
            line[peer] = summary(theirs) | (compare(ours["result"], theirs["result"]) if compare else {})
            line[peer] |= {
                "ratio": round(per_unit(theirs, "seconds") / per_unit(ours, "seconds"), 2),
                "ratio_cpu_seconds": round(per_unit(theirs, "cpu_seconds") / per_unit(ours, "cpu_seconds"), 2),
                "ratio_memory": round(theirs["peak_mb"] / ours["peak_mb"], 2),
            }
        self.write(line)

    def write(self, line: dict) -> None:
        """Print one JSON line, and append it to `--out`."""
        text = json.dumps(line)
        print(text, flush=True)
        if self.out:
            with self.out.open("a", encoding="utf-8") as file:
                file.write(text + "\n")

    # -- cells and checkpoints

    def cells(self, n: int, per_cell: int, n_genes: int | None = None, normalised: bool = False) -> str:
        """Path of simulated cells: counts, or ln(1 + CP10k)."""
        path = self.work / f"cells-{n}-{per_cell}-{n_genes}-{normalised}.h5ad"
        if not path.is_file():
            adata = speed_data.cells(n, n_genes or self.n_genes, per_cell)
            if normalised:
                counts = adata.X
                depths = np.repeat(np.asarray(counts.sum(axis=1)).ravel(), np.diff(counts.indptr))
                counts.data = np.log1p(counts.data * (1e4 / depths)).astype(np.float32)
            adata.write_h5ad(path)
        return str(path)

    def checkpoint(self) -> str:
        """Path of a checkpoint with random weights."""
        return str(speed_data.checkpoint(self.work / "checkpoint", self.sizes, speed_data.symbols(self.n_genes)))

    def tiny_checkpoint(self) -> str:
        """A tiny checkpoint: Helical loads a model even to make sentences, and it should take no time or memory."""
        return str(speed_data.checkpoint(self.work / "unused", speed_data.TINY, speed_data.symbols(300)))

    def sentences(self, n: int, genes: int) -> list[str]:
        """Sentences of 0.9 to 1.1 times `genes` random genes, so that their lengths differ."""
        random = np.random.default_rng(1)
        names = np.array(speed_data.symbols(self.n_genes))
        lengths = random.integers(int(genes * 0.9), int(genes * 1.1) + 1, n)
        return [" ".join(random.permutation(names)[:length]) for length in lengths]

    def sentences_of_tokens(self, n: int, tokens: int) -> list[str]:
        """Sentences whose prompts have just below `tokens` tokens."""
        from cell2sen.engine.tokenization.tokenizer import load_tokens

        tokenizer = load_tokens(self.checkpoint(), local_files_only=True)
        texts = self.sentences(n, tokens // 2)
        for row, text in enumerate(texts):
            words = text.split()
            while len(tokenizer.ids([TEMPLATE.replace("{cell_sentence}", " ".join(words))])[0]) >= tokens:
                words = words[: int(len(words) * 0.98)]
            texts[row] = " ".join(words)
        return texts

    # -- the rows

    def sentences_ids(self) -> None:
        self._sentences("sentences as gene ids, all genes", "ids", ["helical"])

    def sentences_text(self) -> None:
        self._sentences("sentences as text, all genes", "text", ["helical", "cell2sentence"])

    def sentences_top(self) -> None:
        top = 10 if self.tiny else 200
        self._sentences(f"sentences as text, top {top}", "text", ["helical"], top)

    def sentences_normalised(self) -> None:
        """Logarithms of normalised counts, as most files have them; to be compared with the first row."""
        self._sentences("sentences as gene ids, all genes, of logarithms", "ids", [], normalised=True)

    def _sentences(
        self, name: str, form: str, peers: list[str], max_genes: int | None = None, normalised: bool = False
    ) -> None:
        n, per_cell = (60, 40) if self.tiny else (self.scaled(2000), 2500)
        job = {
            "job": "sentences",
            "checkpoint": self.tiny_checkpoint(),
            "form": form,
            "cells": self.cells(n, per_cell, normalised=normalised),
            "max_genes": max_genes,
        }
        self.row(name, job, peers, same_genes, cells=n, genes_per_cell=per_cell)

    def prompts(self) -> None:
        n, genes = (20, 30) if self.tiny else (self.scaled(500), 1000)
        job = {
            "job": "tokens",
            "checkpoint": self.checkpoint(),
            "template": TEMPLATE,
            "sentences": self.sentences(n, genes),
        }
        self.row("prompts to ids", job, ["tokenizers"], same_ids, prompts=n, genes=genes)

    def embedding(self) -> None:
        n, genes = (3, 30) if self.tiny else (self.scaled(2), 450)
        self._embed(f"embedding, about {genes} genes", self.sentences(n, genes), dtype="float32")

    def embedding_bf16(self) -> None:
        name = "embedding in bfloat16"
        if self.lacks_bfloat16(name):
            return
        n, genes = (3, 30) if self.tiny else (self.scaled(2), 450)
        # Helical computes in float32 on every CPU.
        self._embed(name, self.sentences(n, genes), dtype="bfloat16", peer_dtype="float32")

    def lacks_bfloat16(self, row: str) -> bool:
        """Whether this CPU has no bfloat16 instructions; the row is then printed as not measured."""
        from cell2sen.engine.network.cpu import has_bfloat16

        if not has_bfloat16():
            reason = "this CPU has no bfloat16 instructions"
            self.write({"row": row, "not_measured": reason, "product_of_512_cpu_seconds": matrix_products()})
        return not has_bfloat16()

    def embedding_long(self) -> None:
        """One long prompt, in bfloat16 in both packages where the CPU has it."""
        from cell2sen.engine.network.cpu import has_bfloat16

        tokens = 200 if self.tiny else 4096
        dtype = "bfloat16" if has_bfloat16() else "float32"
        self._embed(f"embedding, {tokens} tokens", self.sentences_of_tokens(1, tokens), dtype=dtype)

    def _embed(self, name: str, sentences: list[str], dtype: str, peer_dtype: str | None = None) -> None:
        job = {
            "job": "embed",
            "checkpoint": self.checkpoint(),
            "template": TEMPLATE,
            "sentences": sentences,
            "dtype": dtype,
        }
        peer_dtype = peer_dtype or dtype
        settings = {"cells": len(sentences), "dtype": dtype, "dtype_of_peer": peer_dtype}
        self.row(name, job, ["helical"], difference_of_vectors, {"dtype": peer_dtype}, **settings)

    def annotation(self) -> None:
        self._annotate("", dtype="float32")

    def annotation_bf16(self) -> None:
        self._annotate(" in bfloat16", dtype="bfloat16")

    def _annotate(self, suffix: str, dtype: str) -> None:
        """Labels by probability beside one generation per cell, as cell2sentence does it.

        Random weights never generate the end token, so all generations have the mean length of the labels.
        """
        from cell2sen.engine.tokenization.tokenizer import load_tokens

        n, genes, labels = (3, 30, 5) if self.tiny else (self.scaled(2), 450, 50)
        name = f"annotation with {labels} labels{suffix}"
        if dtype == "bfloat16" and self.lacks_bfloat16(name):
            return
        names = scoring.names(labels)
        counts = load_tokens(self.checkpoint(), local_files_only=True).count([f" {name}." for name in names])
        new_tokens = round(float(np.mean(counts)))
        job = {
            "job": "annotate",
            "checkpoint": self.checkpoint(),
            "template": TEMPLATE,
            "dtype": dtype,
            "sentences": self.sentences(n, genes),
            "labels": names,
            "new_tokens": new_tokens,
        }
        # cell2sentence computes in the dtype of the checkpoint.
        settings = {"cells": n, "genes": genes, "new_tokens": new_tokens, "dtype": dtype, "dtype_of_peer": "float32"}
        self.row(name, job, ["cell2sentence"], None, **settings)

    def perturbation(self) -> None:
        """Predicted sentences of a trained model; the units are words that are genes of the data, each counted once."""
        import anndata as ad
        import bytes_model

        from cell2sen.model import resolve
        from cell2sen.sentences.writing import from_anndata

        if self.data_dir is None:
            self.write({"row": "perturbation", "not_measured": "needs --data-dir, a folder of cells to train on"})
            return
        n, genes = (2, 20) if self.tiny else (self.scaled(16), 200)
        model = self.model or self.work / "bytes"
        if not model.exists():
            bytes_model.make(model, self.data_dir, steps=2 if self.tiny else bytes_model.STEPS)
        description = resolve(str(model))
        cells = ad.read_h5ad(self.data_dir / bytes_model.KANG)
        controls = cells[(cells.obs["condition"] == "control").to_numpy()][:n].copy()
        sentences = from_anndata(controls, description.recipe)
        template = description.metadata["templates"]["perturb"][0]["prompt"]
        job = {
            "job": "perturb",
            "checkpoint": str(model),
            "dtype": "float32",
            "template": template,
            "genes": genes,
            "sentences": [" ".join(names) for names in sentences.gene_names(genes)],
            "known": list(sentences.symbols),
            "perturbation": "IFN-beta",
        }
        self.row(f"perturbation, {genes} genes", job, ["helical"], None, cells=n)

    def growth_sentences(self) -> None:
        """Time against the number of cells and of genes per cell; each size in a process of its own."""
        sizes = [*((n, 500) for n in (1000, 10_000, 100_000)), *((1000, genes) for genes in (200, 1000, 2000, 4000))]
        for n, per_cell in [(50, 20), (100, 20), (50, 40)] if self.tiny else sizes:
            n_genes = 300 if self.tiny else 5000 if n > 1000 else self.n_genes
            job = {
                "job": "sentences",
                "checkpoint": self.tiny_checkpoint(),
                "form": "text",
                "cells": self.cells(n, per_cell, n_genes),
                "max_genes": None,
            }
            name = f"sentences as text of {n} cells, {per_cell} genes"
            self.row(name, job, [], None, cells=n, genes_per_cell=per_cell, genes_of_the_data=n_genes)

    def growth_embedding(self) -> None:
        """Time against the number of genes per cell."""
        for genes in (10, 20) if self.tiny else (200, 1000, 2000, 4000):
            job = {"job": "embed", "checkpoint": self.checkpoint(), "template": TEMPLATE, "dtype": "float32"}
            self.row(
                f"embedding of {genes} genes", job | {"sentences": self.sentences(1, genes)}, [], None, genes=genes
            )


ROWS = [
    "sentences_ids",
    "sentences_text",
    "sentences_top",
    "sentences_normalised",
    "prompts",
    "embedding",
    "embedding_bf16",
    "embedding_long",
    "annotation",
    "annotation_bf16",
    "perturbation",
    "growth_sentences",
    "growth_embedding",
]


@contextlib.contextmanager
def burning(n: int) -> Iterator[None]:
    """Block beside which `n` other processes compute without end."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def summary(measured: dict | None) -> dict:
    """Numbers of a job that are printed."""
    assert measured is not None
    rounded = {name: round(measured[name], 5) for name in ("seconds", "cpu_seconds")} | {"peak_mb": measured["peak_mb"]}
    counts = ("tokens", "units", "passes_per_gene")
    return rounded | {name: measured["result"][name] for name in counts if name in measured["result"]}


def per_unit(measured: dict, seconds: str) -> float:
    """Seconds of a job, or per unit (gene) where packages make different numbers of them."""
    return measured[seconds] / max(1, measured["result"].get("units", 1))


def same_genes(ours: dict, theirs: dict) -> dict:
    """Whether the sentences have as many genes; their order may differ, since packages order ties differently."""
    return {"same_number_of_genes": ours["genes"] == theirs["genes"]}


def same_ids(ours: dict, theirs: dict) -> dict:
    """Whether token ids and their number are equal."""
    return {"ids_equal": ours["ids"] == theirs["ids"] and ours["tokens"] == theirs["tokens"]}


def difference_of_vectors(ours: dict, theirs: dict) -> dict:
    """Largest difference and smallest cosine of cell vectors."""
    a, b = np.array(ours["vectors"]), np.array(theirs["vectors"])
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return {
        "largest_difference": float(np.abs(a - b).max()),
        "largest_value": float(np.abs(b).max()),
        "smallest_cosine": float(cosine.min()),
    }


def matrix_products() -> dict:
    """CPU seconds of a product of two 512 × 512 matrices per dtype, the best of five."""
    import torch

    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix, times = torch.ones(512, 512, dtype=dtype), []
        for _ in range(5):
            started = time.process_time()
            matrix @ matrix
            times.append(time.process_time() - started)
        best[str(dtype).removeprefix("torch.")] = round(min(times), 5)
    return best


def machine() -> dict:
    """CPU, versions and load, printed as the first line."""
    import torch
    import transformers

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "row": "machine",
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers", type=Path, help="Python of the other packages' environment; without it this package runs alone"
    )
    parser.add_argument("--out", type=Path, help="also append the lines to this file")
    parser.add_argument("--only", nargs="*", default=ROWS, choices=ROWS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--burners", type=int, default=0, help="processes that compute beside each job")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the number of cells and prompts")
    parser.add_argument(
        "--work", type=Path, help="folder for cells and checkpoint, which is kept; temporary by default"
    )
    parser.add_argument("--data-dir", type=Path, help="folder of real cells, for the row perturbation")
    parser.add_argument("--model", type=Path, help="model of bytes_model.py for that row; trained by default")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to test that it runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        bench = Bench(arguments, work)
        bench.write(machine())
        for name in arguments.only:
            getattr(bench, name)()


if __name__ == "__main__":
    main()
