"""Embedding on a GPU with Gemma-2 of real shapes and random weights, the usual way beside it in the same run.

    python benchmarks/gpu.py [--out FILE.jsonl] [--only ROW …] [--tiny]

Rows: the measured ceiling of matrix products; parity of the attention with transformers' eager one; embedding of the 2B
at 1k, 4k and 8k tokens with the share of the ceiling that it reaches, and beside it what Helical does (the causal model
with its head, eager attention as it has the soft-cap, all hidden states kept); guided generation of 200 genes for 256
cells; loading and embedding of the 27B in bfloat16 and 4-bit. ``--tiny`` runs the same code with tiny shapes wherever
there is no GPU. Prints one JSON line a row.
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
from cell2sen.engine.network import attention
from cell2sen.engine.network import flex_attention as attention_flex
from cell2sen.engine.tokenization.tokenizer import load_tokens
from cell2sen.model import Model, resolve
from cell2sen.prompt import Prompt

TEMPLATE = ("Below are the genes of one cell, strongest first.\nCell sentence: ", ".\nThe cell type is:")


class Bench:
    def __init__(self, arguments: argparse.Namespace, work: Path) -> None:
        self.tiny, self.runs, self.out, self.work = arguments.tiny, arguments.runs, arguments.out, work
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.float32 if self.tiny else torch.bfloat16
        self.genes = speed_data.symbols(300 if self.tiny else 20_000)
        self.ceiling = 0.0

    def say(self, **line) -> None:
        text = json.dumps(line)
        print(text, flush=True)
        if self.out:
            with self.out.open("a", encoding="utf-8") as file:
                file.write(text + "\n")

    def seconds(self, work) -> float:
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
        return round(torch.cuda.max_memory_allocated() / 2**30, 2) if self.device == "cuda" else None

    def network(self, sizes: dict, head: bool, implementation: str):
        """Random weights made on the device: nothing is read or written."""
        attention.register()
        kind = transformers.Gemma2ForCausalLM if head else transformers.Gemma2Model
        torch.manual_seed(0)
        torch.set_default_dtype(self.dtype)
        try:
            with torch.device(self.device):
                made = kind._from_config(speed_data.config(sizes), attn_implementation=implementation)
        finally:
            torch.set_default_dtype(torch.float32)
        return made.eval()

    # -- rows

    def matrix(self) -> None:
        """The ceiling: a large product in the dtype of the model."""
        n = 256 if self.tiny else 8192
        one, other = (torch.randn(n, n, device=self.device, dtype=self.dtype) for _ in range(2))
        self.ceiling = 2 * n**3 / self.seconds(lambda: one @ other)
        self.say(row="matrix products", tflops=round(self.ceiling / 1e12, 3), size=n, dtype=str(self.dtype))

    def parity(self) -> None:
        """Largest difference of hidden states from transformers' eager attention, same weights."""
        sizes = speed_data.TINY if self.tiny else speed_data.GEMMA_2_2B | {"num_hidden_layers": 4}
        length = 200 if self.tiny else 6000  # beyond the window of 4,096
        ids = torch.randint(10, 1000, (1, length), device=self.device)
        found = {}
        for name in (attention.NAME, "eager"):
            with torch.inference_mode():
                found[name] = self.network(sizes, False, name)(
                    input_ids=ids, use_cache=False
                ).last_hidden_state.double()
        one, other = found.values()
        cosine = torch.nn.functional.cosine_similarity(one, other, dim=-1).min()
        self.say(
            row="attention against eager", tokens=length, largest_difference=float((one - other).abs().max()),
            least_cosine=float(cosine), dtype=str(self.dtype),
            flex=list(attention_flex.faults.values()),
        )  # fmt: skip

    def tokens(self, sizes: dict):
        folder = self.work / "tokenizer"
        folder.mkdir(exist_ok=True)
        speed_data.tokenizer(sizes["vocabulary"], self.genes).save(str(folder / "tokenizer.json"))
        names = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return load_tokens(str(folder), local_files_only=True)

    def embedding(self) -> None:
        sizes = speed_data.TINY if self.tiny else speed_data.GEMMA_2_2B
        tokens = self.tokens(sizes)
        for length in (64, 128) if self.tiny else (1024, 4096, 8192):
            n = 3 if self.tiny else max(4, 65_536 // length)
            prompts = [self.prompt(tokens, length, row) for row in range(n)]
            line = {"row": f"embedding, {length} tokens", "cells": n, "device": self.device, "dtype": str(self.dtype)}
            if self.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            network = self.network(sizes, True, attention.NAME)
            made = TransformersBackend(Model(name="random", path="random"), network, tokens, progress=False)
            found = made.embed(prompts).vectors
            seconds = self.seconds(lambda made=made, prompts=prompts: made.embed(prompts))
            total = int(made.tokens.lengths(prompts).sum())
            inside = sum(each.numel() for each in made.base.layers.parameters())
            work = 2 * inside * total + 2 * sizes["num_hidden_layers"] * total * length * (
                sizes["num_attention_heads"] * sizes["head_dim"]
            )  # causal: half of the scores, twice as a product
            line["cell2sen"] = {
                "tokens_per_second": round(total / seconds), "peak_gb": self._peak(),
                "share_of_ceiling": round(work / seconds / self.ceiling, 3) if self.ceiling else None,
            }  # fmt: skip
            line["helical_way"] = self.usual_way(network, tokens, prompts, found, total, seconds)
            self.say(**line)
            del network, made

    def generation(self) -> None:
        """Guided greedy sentences behind control sentences; with random weights guesses are worth less than trained."""
        sizes = speed_data.TINY if self.tiny else speed_data.GEMMA_2_2B
        n, genes = (2, 5) if self.tiny else (256, 200)
        tokens = self.tokens(sizes)
        made = TransformersBackend(
            Model(name="random", path="random"), self.network(sizes, True, attention.NAME), tokens, progress=False
        )
        prompts = [replace(self.prompt(tokens, 64 if self.tiny else 1024, row), answer_genes=genes) for row in range(n)]
        known = tuple(gene for gene, writes in zip(self.genes, made.known_genes(self.genes), strict=True) if writes)
        texts = made.generate(prompts, Sampling(), genes=known)
        work = made.generator.work
        written = sum(len(set(text.split()) & set(known)) for text in texts)
        passes = work.passes / work.genes
        seconds = self.seconds(lambda: made.generate(prompts, Sampling(), genes=known))
        self.say(
            row=f"guided generation, {genes} genes", cells=n, device=self.device, dtype=str(self.dtype), genes=written,
            genes_per_second=round(written / seconds, 1), passes_per_gene=round(passes, 3), peak_gb=self._peak(),
        )  # fmt: skip

    def usual_way(self, network, tokens, prompts, found, total: int, ours: float) -> dict:
        """Head, eager attention, every hidden state, two prompts at a time, padded on the left."""
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
        cosine = torch.nn.functional.cosine_similarity(vectors, torch.from_numpy(found)).min()
        return {
            "tokens_per_second": round(total / seconds), "peak_gb": self._peak(), "ratio": round(seconds / ours, 2),
            "least_cosine": float(cosine),
        }  # fmt: skip

    def prompt(self, tokens, length: int, row: int) -> Prompt:
        """As many genes as fit into so many tokens."""
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
        """The 27B from a checkpoint on disk, in bfloat16 and 4-bit."""
        sizes = speed_data.TINY if self.tiny else speed_data.GEMMA_2_27B
        dtype = "float32" if self.tiny else "bfloat16"
        folder = speed_data.checkpoint(self.work / "large", sizes, self.genes, dtype, self.device)
        for quantize in (None, "4bit"):
            started = time.perf_counter()
            made = backends.load(resolve(folder, dtype=dtype, quantize=quantize), progress=False)
            loaded = time.perf_counter() - started
            vectors = made.embed([self.prompt(made.tokens, 64 if self.tiny else 1024, 0)]).vectors
            self.say(
                row=f"27B, {quantize or dtype}", seconds_to_load=round(loaded, 1), peak_gb=self._peak(),
                finite=bool(torch.from_numpy(vectors).isfinite().all()),
            )  # fmt: skip
            del made
            if self.device == "cuda":
                torch.cuda.empty_cache()


ROWS = ["matrix", "parity", "embedding", "generation", "large"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also append the lines to this file")
    parser.add_argument("--only", nargs="*", default=ROWS, choices=ROWS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path, help="folder for the 27B checkpoint (55 GB); a temporary one by default")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, on CPU too: to see that it runs")
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
