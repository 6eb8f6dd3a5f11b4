"""Embedding and generation on a GPU with Gemma-2 of real shapes and random weights, beside the usual way.

    python benchmarks/gpu.py [--out FILE.jsonl] [--only ROW …] [--tiny]

Prints one JSON line per row:

* matrix: speed of a large matrix product, the ceiling for all else;
* parity: difference of the attention from transformers' eager attention;
* embedding: the 2B at 1k, 4k and 8k tokens, its share of the ceiling, and beside it Helical's way (the causal model
  with its LM head, eager attention since that has the soft-cap, all hidden states kept);
* generation: guided sentences of 200 genes for 256 cells;
* large: loading and embedding with the 27B in bfloat16 and 4-bit.

``--tiny`` runs the same code with tiny shapes, also on a CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import speed_data
import torch
import transformers

from cell2sen import backends
from cell2sen.backend import Sampling
from cell2sen.backends.transformers import TransformersBackend
from cell2sen.engine.network import attention, flex_attention
from cell2sen.engine.tokenization.tokenizer import load_tokens
from cell2sen.model import Model, resolve
from cell2sen.prompt import Prompt

TEMPLATE = ("Below are the genes of one cell, strongest first.\nCell sentence: ", ".\nThe cell type is:")


class Bench:
    """The rows of the benchmark, one method each."""

    def __init__(self, arguments: argparse.Namespace, work: Path) -> None:
        self.tiny, self.runs, self.out, self.work = arguments.tiny, arguments.runs, arguments.out, work
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.float32 if self.tiny else torch.bfloat16
        self.genes = speed_data.symbols(300 if self.tiny else 20_000)
        self.ceiling = 0.0

    def write(self, **line) -> None:
        """Print one JSON line, and append it to `--out`."""
        text = json.dumps(line)
        print(text, flush=True)
        if self.out:
            with self.out.open("a", encoding="utf-8") as file:
                file.write(text + "\n")

    def seconds(self, work) -> float:
        """Median wall time after one run to warm up, with the GPU synchronised."""
        times = []
        for _ in range(self.runs + 1):
            self._wait()
            started = time.perf_counter()
            work()
            self._wait()
            times.append(time.perf_counter() - started)
        return statistics.median(times[1:])

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _peak(self) -> float | None:
        """Peak GPU memory in GiB."""
        return round(torch.cuda.max_memory_allocated() / 2**30, 2) if self.device == "cuda" else None

    def network(self, sizes: dict, head: bool, implementation: str):
        """A network with random weights, made on the device."""
        attention.register()
        kind = transformers.Gemma2ForCausalLM if head else transformers.Gemma2Model
        torch.manual_seed(0)
        torch.set_default_dtype(self.dtype)
        try:
            with torch.device(self.device):
                network = kind._from_config(speed_data.config(sizes), attn_implementation=implementation)
        finally:
            torch.set_default_dtype(torch.float32)
        return network.eval()

    # -- rows

    def matrix(self) -> None:
        """Operations per second of a large matrix product in the dtype of the model: the ceiling."""
        n = 256 if self.tiny else 8192
        a, b = (torch.randn(n, n, device=self.device, dtype=self.dtype) for _ in range(2))
        self.ceiling = 2 * n**3 / self.seconds(lambda: a @ b)
        self.write(row="matrix products", tflops=round(self.ceiling / 1e12, 3), size=n, dtype=str(self.dtype))

    def parity(self) -> None:
        """Largest difference of hidden states from those of transformers' eager attention, same weights."""
        sizes = speed_data.TINY if self.tiny else speed_data.GEMMA_2_2B | {"num_hidden_layers": 4}
        length = 200 if self.tiny else 6000  # beyond the window of 4,096
        ids = torch.randint(10, 1000, (1, length), device=self.device)
        states = []
        for implementation in (attention.NAME, "eager"):
            network = self.network(sizes, False, implementation)
            with torch.inference_mode():
                states.append(network(input_ids=ids, use_cache=False).last_hidden_state.double())
        ours, eager = states
        cosine = torch.nn.functional.cosine_similarity(ours, eager, dim=-1).min()
        self.write(
            row="attention against eager",
            tokens=length,
            largest_difference=float((ours - eager).abs().max()),
            smallest_cosine=float(cosine),
            dtype=str(self.dtype),
            flex=list(flex_attention.faults.values()),
        )

    def tokens(self, sizes: dict):
        """The tokenizer of speed_data, written to and read from a file as in a checkpoint."""
        folder = self.work / "tokenizer"
        folder.mkdir(exist_ok=True)
        speed_data.tokenizer(sizes["vocabulary"], self.genes).save(str(folder / "tokenizer.json"))
        names = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return load_tokens(str(folder), local_files_only=True)

    def embedding(self) -> None:
        """Cell vectors of prompts of three lengths, beside Helical's way."""
        sizes = speed_data.TINY if self.tiny else speed_data.GEMMA_2_2B
        tokens = self.tokens(sizes)
        for length in (64, 128) if self.tiny else (1024, 4096, 8192):
            n = 3 if self.tiny else max(4, 65_536 // length)
            prompts = [self.prompt(tokens, length, row) for row in range(n)]
            line = {"row": f"embedding, {length} tokens", "cells": n, "device": self.device, "dtype": str(self.dtype)}
            if self.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            network = self.network(sizes, True, attention.NAME)
            backend = TransformersBackend(Model(name="random", path="random"), network, tokens, progress=False)
            vectors = backend.embed(prompts).vectors
            seconds = self.seconds(lambda backend=backend, prompts=prompts: backend.embed(prompts))
            n_tokens = int(backend.tokens.lengths(prompts).sum())
            n_weights = sum(weights.numel() for weights in backend.base.layers.parameters())
            # Attention has two products, each with half of the pairs of tokens since it is causal.
            width = sizes["num_attention_heads"] * sizes["head_dim"]
            work = 2 * n_weights * n_tokens + 2 * sizes["num_hidden_layers"] * n_tokens * length * width
            line["cell2sen"] = {
                "tokens_per_second": round(n_tokens / seconds),
                "peak_gb": self._peak(),
                "share_of_ceiling": round(work / seconds / self.ceiling, 3) if self.ceiling else None,
            }
            line["helical_way"] = self.usual_way(network, tokens, prompts, vectors, seconds)
            self.write(**line)
            del network, backend

    def generation(self) -> None:
        """Guided greedy sentences after control sentences; fewer drafts are accepted than with trained weights."""
        sizes = speed_data.TINY if self.tiny else speed_data.GEMMA_2_2B
        n, genes = (2, 5) if self.tiny else (256, 200)
        tokens = self.tokens(sizes)
        network = self.network(sizes, True, attention.NAME)
        backend = TransformersBackend(Model(name="random", path="random"), network, tokens, progress=False)
        prompts = [replace(self.prompt(tokens, 64 if self.tiny else 1024, row), answer_genes=genes) for row in range(n)]
        is_known = backend.known_genes(self.genes)
        known = tuple(gene for gene, keep in zip(self.genes, is_known, strict=True) if keep)
        texts = backend.generate(prompts, Sampling(), genes=known)
        work = backend.generator.work
        written = sum(len(set(text.split()) & set(known)) for text in texts)
        passes = work.passes / work.genes
        seconds = self.seconds(lambda: backend.generate(prompts, Sampling(), genes=known))
        self.write(
            row=f"guided generation, {genes} genes",
            cells=n,
            device=self.device,
            dtype=str(self.dtype),
            genes=written,
            genes_per_second=round(written / seconds, 1),
            passes_per_gene=round(passes, 3),
            peak_gb=self._peak(),
        )

    def usual_way(self, network, tokens, prompts, our_vectors, our_seconds: float) -> dict:
        """Helical's way: LM head, eager attention, all hidden states, two prompts at a time, padded on the left."""
        network.set_attn_implementation("eager")

        def embed() -> torch.Tensor:
            vectors = []
            for first in range(0, len(prompts), 2):
                rows = [torch.from_numpy(row.ids).long() for row in tokens.encode(prompts[first : first + 2])]
                length = max(map(len, rows))
                ids = torch.stack([torch.nn.functional.pad(row, (length - len(row), 0)) for row in rows]).to(
                    self.device
                )
                lengths = torch.tensor([len(row) for row in rows], device=self.device)
                mask = (torch.arange(length, device=self.device) >= length - lengths[:, None]).long()
                with torch.inference_mode():
                    state = network(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
                vectors.append((state.float() * mask[:, :, None]).sum(1) / mask.sum(1)[:, None])
            return torch.cat(vectors)

        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            vectors = embed().float().cpu()
            seconds = self.seconds(embed)
        except torch.OutOfMemoryError as error:
            return {"failed": str(error).splitlines()[0]}
        finally:
            network.set_attn_implementation(attention.NAME)
        cosine = torch.nn.functional.cosine_similarity(vectors, torch.from_numpy(our_vectors)).min()
        return {
            "tokens_per_second": round(int(tokens.lengths(prompts).sum()) / seconds),
            "peak_gb": self._peak(),
            "ratio": round(seconds / our_seconds, 2),
            "smallest_cosine": float(cosine),
        }

    def prompt(self, tokens, length: int, row: int) -> Prompt:
        """A prompt with as many genes as fit into `length` tokens."""
        order = torch.randperm(len(self.genes), generator=torch.Generator().manual_seed(row)).tolist()
        words = [self.genes[gene] for gene in order]
        low, high = 0, len(words)
        while high - low > 1:
            middle = (low + high) // 2
            fits = (
                tokens.lengths([Prompt.of_cell(TEMPLATE[0], genes=tuple(words[:middle]), after=TEMPLATE[1])])[0]
                <= length
            )
            low, high = (middle, high) if fits else (low, middle)
        return Prompt.of_cell(TEMPLATE[0], genes=tuple(words[: max(low, 1)]), after=TEMPLATE[1], key=str(row))

    def large(self) -> None:
        """Load the 27B from disk in bfloat16 and 4-bit, and embed one cell."""
        sizes = speed_data.TINY if self.tiny else speed_data.GEMMA_2_27B
        dtype = "float32" if self.tiny else "bfloat16"
        folder = speed_data.checkpoint(self.work / "large", sizes, self.genes, dtype, self.device)
        for quantize in (None, "4bit"):
            started = time.perf_counter()
            backend = backends.load(resolve(folder, dtype=dtype, quantize=quantize), progress=False)
            loaded = time.perf_counter() - started
            vectors = backend.embed([self.prompt(backend.tokens, 64 if self.tiny else 1024, 0)]).vectors
            self.write(
                row=f"27B, {quantize or dtype}",
                seconds_to_load=round(loaded, 1),
                peak_gb=self._peak(),
                finite=bool(torch.from_numpy(vectors).isfinite().all()),
            )
            del backend
            if self.device == "cuda":
                torch.cuda.empty_cache()


ROWS = ["matrix", "parity", "embedding", "generation", "large"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also append the lines to this file")
    parser.add_argument("--only", nargs="*", default=ROWS, choices=ROWS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path, help="folder for the 27B checkpoint (55 GB); temporary by default")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to test that it runs, also on a CPU")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU; --tiny runs the same code with tiny shapes")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments, arguments.work or Path(folder))
        bench.work.mkdir(parents=True, exist_ok=True)
        for name in arguments.only:
            getattr(bench, name)()


if __name__ == "__main__":
    main()
