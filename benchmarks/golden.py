"""Golden results: numbers and texts of the package, stored by one version and compared bit for bit with another.

    python benchmarks/golden.py record FOLDER [--data-dir DIR] [--only NAME ...]
    python benchmarks/golden.py compare OLD NEW [--expect NAME ...]

A refactoring must change no number. `record` runs the package that Python finds (`PYTHONPATH=OTHER/src` takes that of
another checkout) and writes one .npz file per result. `compare` prints one line per result, and exits with 1 if one
failed, or differs or is missing though `--expect` does not name it. Names may have wildcards: `--expect 'cli/*'`.

Record both on the same machine with the same libraries and data: another CPU rounds differently. The cells are those
in scanpy, and some of the files in DIR (docs/reference/data.md), by default ../shared/data beside the repository. Names
that are not public are listed in `INTERNAL` and `GROUPED`: update these when modules move.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import functools
import importlib
import importlib.metadata
import inspect
import itertools
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

# Libraries read these when they are loaded. The order in which numbers are added depends on the number of threads.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "2")
# Threads that sleep while they wait halve the time on a machine that other programs use, too.
os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp

import cell2sen as c2s

LIBRARIES = ("anndata", "numpy", "pandas", "scikit-learn", "scipy", "torch", "transformers", "trl")

#: Function that is not public → its places in all versions; the first one that exists is used.
INTERNAL = {
    "from_anndata": [f"sentences{module}:from_anndata" for module in ("", ".sentences", ".from_anndata")],
    "load_task": ("tasks:load", "tasks:get"),
    "load_tokens": ("tokens:load_tokens", "engine.tokenization.tokenizer:load_tokens"),
    "train": ("train:train", "training:train", "training.train:train"),
    "from_mapping": ("train:from_mapping", "training:from_mapping", "training.config:from_mapping"),
    "score_rewards": ("rewards:score", "training.rewards:score"),
    "Answer": ("rewards:Answer", "training.rewards:Answer"),
}


def below(**groups: str) -> dict[str, str]:
    """Key → its dotted place in a group, from the keys of each group."""
    return {key: f"{group}.{key}" for group, keys in groups.items() for key in keys.split()}


#: Flat key of a training file → its place in a grouped one, for the whole and for parts of it. Used if the version has
#: the module cell2sen.training and accepts them, otherwise the flat keys are used.
GROUPED = {
    "whole": {"data": "data.files", "model": "model.start"}
    | below(data="lengths", model="from_scratch lora gene_tokens", compute="packing bf16", card="score_cells")
    | below(optimiser="batch_size max_steps prompt_loss loss_tokens", checkpoints="eval_steps save_dtype"),
    "data": {"perturbation": "perturbation.column"} | below(perturbation="context no_perturbation"),
    "from_scratch": {"tokenizer": "tokenizer.kind"} | below(tokenizer="text_tokens min_cells", initial="gene_vectors"),
    "grpo": {"gene_sets": "genes.gmt", "gene_set": "genes.sets", "answers": "answers.per_prompt"}
    | below(answers="prompts held_out"),
}

#: File of real data → step between the cells that are used.
FILES = {
    "pbmc3k_2638x13714": 80, "kang_ifnb_2000x9015": 40, "papalexi_thp1_20729x299": 400,
    "pancreas_human_mouse_328x12474": 8, "mouse_lung_800x24248": 25, "kang_control_12261x1287": 250,
}  # fmt: skip

#: Task whose prompts are tokenised → values of its slots, and an answer.
TASKS = {
    "embed": ({}, ""), "annotate": ({}, " CD8-positive, alpha-beta T cell."),
    "generate": ({"cell_type": "B cell"}, " CD4"), "perturb": ({"perturbation": "IFN-beta"}, " ISG15 HLA-A."),
}  # fmt: skip
LABELS = ["B cell", "NK cells", "CD4 T", "CD8 T cell", "monocyte", "dendritic cell"]
NAMES = {"B cell": "CD19+ B", "NK cell": "CD56+ NK", "CD14+ monocyte": "CD14+ Monocyte", "dendritic cell": "Dendritic"}

#: Keys that are left out: times, versions, and a training's settings, whose form may change.
LEFT_OUT = re.compile(r"versions|training|(expected_)?seconds_\w+|\w*(runtime|per_second)|step_time|total_flos")

#: Names of results, and functions that compute them.
Results = Iterator[tuple[str, Callable[[], Any]]]


def internal(name: str) -> Any:
    """A function that is not public, from its place in the installed version."""
    for place in INTERNAL[name]:
        module, attribute = place.split(":")
        try:
            function = getattr(importlib.import_module(f"cell2sen.{module}"), attribute, None)
        except ModuleNotFoundError as error:
            if not str(error.name).startswith("cell2sen"):
                raise
            continue
        if callable(function):  # a module may have the same name
            return function
    raise AttributeError(f"{name} is in none of {INTERNAL[name]}: add its new place to INTERNAL")


# -- storing and comparing


def parts(value: Any, path: str = "value") -> Iterator[tuple[str, np.ndarray]]:
    """A result as named arrays of numbers or text."""
    if isinstance(value, ad.AnnData):
        own = {"obsm": dict(value.obsm), "layers": dict(value.layers), "uns": value.uns.get("cell2sen", {})}
        value = {"X": value.X, "obs": value.obs, "var": value.var, **own}
    elif isinstance(value, pd.DataFrame):
        value = {"columns": list(map(str, value)), "index": value.index.to_numpy(), **dict(value.items())}
    elif isinstance(value, pd.Series) and isinstance(value.dtype, pd.CategoricalDtype):
        value = {"categories": list(value.cat.categories), "codes": value.cat.codes.to_numpy()}
    elif isinstance(value, pd.Series):
        value = value.to_numpy()
    elif sp.issparse(value):
        value = value.tocsr().sorted_indices()
        value = {name: getattr(value, name) for name in ("shape", "indptr", "indices", "data")}
    elif dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufU":
        yield path, value
    elif isinstance(value, Mapping):
        for key in value:
            if not LEFT_OUT.fullmatch(str(key)):
                yield from parts(value[key], f"{path}/{key}")
    elif isinstance(value, list | tuple | np.ndarray):
        values = list(value)
        if all(isinstance(entry, int | float | np.number) for entry in values):
            yield path, np.array(values)
        elif all(entry is None or np.isscalar(entry) for entry in values):
            yield path, np.array([entry if isinstance(entry, str) else f"<{entry}>" for entry in values])
        else:
            yield from parts({"length": len(values), **dict(enumerate(values))}, path)
    elif value is None or np.isscalar(value):
        yield path, np.array("<None>" if value is None else value)
    else:
        raise TypeError(f"{path} is a {type(value).__name__}, which cannot be stored")


def difference(old: np.ndarray, new: np.ndarray) -> str:
    """Number of entries that differ, the largest difference and the first one; empty if all bits are the same."""
    is_text = old.dtype.kind == new.dtype.kind == "U"
    if old.shape != new.shape or (old.dtype != new.dtype and not is_text):
        return f"{old.dtype} {old.shape} became {new.dtype} {new.shape}"
    old, new = (np.ascontiguousarray(array).reshape(-1) for array in (old, new))
    if is_text:
        differs = old != new
    else:
        bits = [array.view(np.uint8).reshape(len(array), array.dtype.itemsize) for array in (old, new)]
        differs = (bits[0] != bits[1]).any(axis=1)
    if not differs.any():
        return ""
    at, size, begin = int(differs.argmax()), "", 0
    pair = str(old[at]), str(new[at])
    if is_text:
        same = itertools.takewhile(lambda letters: letters[0] == letters[1], zip(*pair, strict=False))
        begin = max(0, len(list(same)) - 20)
    else:
        numbers = old.astype(float)
        changes = numbers - new.astype(float)
        most, largest = (np.nanmax(np.abs(values), initial=0) for values in (changes, numbers))
        size = f" by up to {most:.2g}, values up to {largest:.3g}"
    first, second = (text[begin : begin + 60] for text in pair)
    return f"{differs.sum()} of {len(old)} differ{size}, first [{at}] {first!r} became {second!r}"


def differences(old: Path, new: Path) -> list[str]:
    """Differences of two stored results: one text for each part that differs."""
    for side, file in (("OLD", old), ("NEW", new)):
        if not file.is_file():
            return [f"missing in {side}"]
    with np.load(old) as before, np.load(new) as after:
        # The same error in both proves nothing.
        sides = (("NEW", after), ("OLD", before))
        texts = [f"{side} failed: {file['error']}" for side, file in sides if "error" in file]
        for name in [] if texts else dict.fromkeys((*before, *after)):
            if name not in before or name not in after:
                texts.append(f"{name} is in {'OLD' if name in before else 'NEW'} only")
            elif text := difference(before[name], after[name]):
                texts.append(f"{name}: {text}")
    return texts


def compare(old: Path, new: Path, expected: list[str]) -> bool:
    """Print one line per result. True if all are the same or expected to differ."""
    before, after = (json.loads((folder / "about.json").read_text(encoding="utf-8")) for folder in (old, new))
    for key in [key for key in before if before[key] != after[key]]:
        print(f"note      {key}: {before[key]} became {after[key]}")
    files = {file.relative_to(folder) for folder in (old, new) for file in folder.rglob("*.npz")}
    counts = {"same": 0, "expected": 0, "DIFFERS": 0}
    for file in sorted(files):
        name, texts = file.with_suffix("").as_posix(), differences(old / file, new / file)
        failed = bool(texts) and texts[0].startswith("NEW failed")  # never expected
        allowed = not failed and any(fnmatch.fnmatch(name, pattern) for pattern in expected)
        kind = "same" if not texts else "expected" if allowed else "DIFFERS"
        counts[kind] += 1
        more = [f"and {len(texts) - 3} more parts"] if len(texts) > 3 else []
        print(f"{kind:<9} {name:<28} {'; '.join(texts[:3] + more)}".rstrip())
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return bool(files) and not counts["DIFFERS"]


def record(folder: Path, data_dir: Path | None, only: list[str]) -> None:
    """Compute all results and store each in a file; of a result that fails, its error."""
    import torch

    torch.set_num_threads(2)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    folder, data_dir = folder.resolve(), data_dir and data_dir.resolve()
    if any(folder.rglob("*.npz")) and not only:
        sys.exit(f"{folder} has results already; name an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    about = {name: importlib.metadata.version(name) for name in LIBRARIES} | {"real data": data_dir is not None}
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
    print(f"{Path(c2s.__file__).parent}, real data: {data_dir or 'none'}")
    started = begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)  # so that no result contains a path
        for name, compute in results(data_dir):
            if only and not any(fnmatch.fnmatch(name, pattern) for pattern in only):
                continue
            try:
                arrays = dict(parts(compute()))
            except Exception as error:
                arrays = {"error": np.array(f"{type(error).__name__}: {error}")}
            file = folder / f"{name}.npz"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(file, **arrays)
            begun, before = time.perf_counter(), begun
            print(f"{begun - before:6.1f} s  {name}  {arrays.get('error', '')}", flush=True)
        os.chdir(folder)
    print(f"{time.perf_counter() - started:.0f} s")


# -- computing


def results(data_dir: Path | None) -> Results:
    """All results; trainings first, since other results use their models."""
    neox = data_dir and data_dir.parent / "tokenizers" / "gpt-neox-20b"
    neox = neox if neox and neox.is_dir() else None
    yield from of_trainings(blood()[::6].copy())
    yield from of_options(blood()[::9].copy())
    yield from of_command_line(blood()[::20].copy())
    yield from of_pieces("bpe", blood()[::70].copy())
    yield from of_pieces("gemma", blood()[::70].copy())
    yield from of_cells("pbmc68k", blood()[::8].copy(), neox)
    files = {name: (data_dir or Path()) / f"{name}.h5ad" for name in FILES}
    for name, file in files.items():
        if file.is_file():
            yield from of_cells(name.rpartition("_")[0], ad.read_h5ad(file)[:: FILES[name]].copy(), neox)
    pbmc, kang = list(files.values())[:2]
    if kang.is_file() and pbmc.is_file():
        yield from of_evaluations(ad.read_h5ad(kang), ad.read_h5ad(pbmc)[::60].copy())


@functools.cache
def nano() -> Any:
    """The embedded model, loaded once."""
    return c2s.Cell2Sen(c2s.Cell2SenConfig(progress=False)).backend


def by_nano(verb: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Result of a verb with the embedded model."""
    return verb(*arguments, model=nano(), progress=False, **options)


@functools.cache
def blood() -> Any:
    """Log-normalised cells in scanpy, with made-up donors and perturbations."""
    cells = sc.datasets.pbmc68k_reduced().raw.to_adata()
    rows = np.arange(cells.n_obs)
    cells.obs = cells.obs[["bulk_labels"]].assign(condition=np.where(rows // 4 % 2, "drug", "control"))
    cells.obs = cells.obs.assign(donor=[f"d{row % 5}" for row in rows], organism="Homo sapiens")
    cells.uns = {}
    return cells


def of_trainings(cells: Any) -> Results:
    """Short trainings of every kind, and rewards."""
    cells.write_h5ad("train.h5ad")
    Path("sets.gmt").write_text("\t".join(["SET", "-", *cells.var_names[100:300]]) + "\n", encoding="utf-8")
    shape = {"hidden_size": 32, "layers": 2, "heads": 2, "intermediate_size": 64, "context": 256, "min_cells": 3}
    pieces = shape | {"tokenizer": "bpe", "text_tokens": 600}
    weights = {"kendall_tau": 1, "change": 0.5, "overlap": 1, "embedding": 0.1}
    grpo = {"rewards": weights, "prompts": 2, "answers": 4, "held_out": 8, "gene_sets": "sets.gmt", "gene_set": "SET"}
    new = {"no_perturbation": "nothing"}
    yield "train/scratch", lambda: train("scratch", new, from_scratch=shape, max_steps=10, eval_steps=5, score_cells=8)
    yield "train/bpe", lambda: train("bpe", from_scratch=pieces, prompt_loss=0.2, loss_tokens=8)
    yield "train/lora", lambda: train("lora", {"tasks": ["annotate"]}, model="scratch", lora={"r": 4}, packing=True)
    yield "train/gene_tokens", lambda: train("whole", {"tasks": ["generate"]}, model="bpe", gene_tokens={"first": 2})
    yield "train/nano", lambda: train("tuned", {"tasks": ["perturb"]}, model="nano", max_steps=2)
    yield "train/grpo", lambda: train("rewarded", {"tasks": ["perturb"]}, model="scratch", grpo=grpo, max_steps=2)

    def rewards() -> Any:
        lists = [list(genes) for genes in internal("from_anndata")(cells[:12]).gene_lists(40)]
        trios = [(lists[row], lists[row - 1], lists[row - 2]) for row in range(12)]
        answers = [internal("Answer")(written=w, truth=t, control=c, n_words=41) for w, t, c in trios]
        return internal("score_rewards")(["kendall_tau", "overlap", "change", "validity"], answers)

    yield "train/rewards", rewards


def train(out: str, data: Mapping[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """Train on train.h5ad; `data` and `settings` are flat keys of a training file."""
    common = {"file": "train.h5ad", "tasks": ["annotate", "generate", "perturb"], "cell_type": "bulk_labels"}
    common |= {"perturbation": "condition", "context": ["donor"], "split": {"by": "donor", "values": ["d3"]}}
    lengths = {"annotate": 30, "generate": 15, "perturb": 15}
    steps = {"batch_size": 8, "max_steps": 4, "eval_steps": 2, "bf16": False}
    flat = {"data": [common | dict(data or {})], "lengths": lengths, **steps, "save_dtype": "float32", "score_cells": 0}
    internal("train")(configured(flat | settings), out, base=".", progress=False)
    return trained(Path(out))


def configured(flat: dict[str, Any]) -> Any:
    """A training configuration of the installed version: grouped if it has groups, otherwise flat."""
    from_mapping = internal("from_mapping")
    if importlib.util.find_spec("cell2sen.training") is None:
        return from_mapping(flat)
    grouped = flat | {key: moved(flat[key], GROUPED[key]) for key in ("from_scratch", "grpo") if key in flat}
    grouped |= {"data": [moved(data, GROUPED["data"]) for data in flat["data"]]}
    try:
        return from_mapping(moved(grouped, GROUPED["whole"]))
    except (TypeError, ValueError) as error:
        print(f"the grouped configuration was refused ({error}), the flat one is used")
        return from_mapping(flat)


def moved(values: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """Values at their dotted places; keys without one stay."""
    grouped: dict[str, Any] = {}
    for key, value in values.items():
        *groups, last = places.get(key, key).split(".")
        functools.reduce(lambda place, group: place.setdefault(group, {}), groups, grouped)[last] = value
    return grouped


def trained(folder: Path) -> dict[str, Any]:
    """Files that a training has written."""
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    files: dict[str, Any] = {name: weight.float().numpy() for name, weight in weights.items()}
    for name in ("cell2sen.json", "training_log.json", "trained_on.json", "held_out.json"):
        files[name] = json.loads((folder / name).read_text(encoding="utf-8"))
    for name in ("tokenizer.json", "README.md"):
        files[name] = (folder / name).read_text(encoding="utf-8")
    return files | {file.name: dict(np.load(file)) for file in folder.glob("*.npz")}


def of_options(cells: Any) -> Results:
    """Options of all verbs, on one data set."""
    raw, few, plain = sc.datasets.pbmc68k_reduced()[::40].copy(), cells[::10].copy(), {"copy": True, "progress": False}
    wording = {"embed": [{"prompt": "The {n_genes} genes of a {organism} cell: {genes}"}]}
    embed, annotate = functools.partial(c2s.tl.embed, **plain), functools.partial(c2s.tl.annotate, **plain)
    perturb = functools.partial(by_nano, c2s.tl.perturb, few, "IFN-beta")
    generate = functools.partial(by_nano, c2s.tl.generate, ["B cell", "NK cell"], seed=1)
    yield "options/raw", lambda: embed(raw, use_raw=True)
    yield "options/wording", lambda: embed(few, templates=wording, max_genes=60, ties="random")
    yield "options/quantized", lambda: embed(few, quantize="4bit")
    yield "options/batches", lambda: annotate(few, batch_size=3)
    yield "options/identify", lambda: annotate(few, ["IFN-beta", "IL-6"], task="identify")
    yield "options/model_only", lambda: perturb(n_genes=30, measured=False)
    yield "options/longer", lambda: perturb(n_genes=60)
    yield "options/free", lambda: perturb(guided=False, max_new_tokens=40)
    yield "options/generate", lambda: generate(n=1, n_genes=25)
    yield "options/generate_greedy", lambda: generate(n=1, n_genes=25, genes=cells, temperature=0)
    yield "options/generate_free", lambda: generate(n=1, guided=False, top_k=40, max_new_tokens=25)
    for dtype in ("bfloat16", "float16"):
        yield f"options/embed_{dtype}", functools.partial(embed, few, attention_for=[1], dtype=dtype)
        yield f"options/annotate_{dtype}", functools.partial(annotate, few, dtype=dtype)
    labels = {"label": "bulk_labels", "rename": NAMES}
    yield "evaluate/pbmc68k_labels", lambda: evaluated(annotate(cells, list(NAMES)), cells, context="donor", **labels)
    labels |= {"predicted_label": "cell_type"}
    yield "evaluate/pbmc68k_drawn", lambda: evaluated(generate(n=12, n_genes=25, genes=cells), blood(), **labels)


def of_command_line(cells: Any) -> Results:
    """The commands, on files."""
    cells.write_h5ad("cells.h5ad")
    cells[:6].write_h5ad("few.h5ad")

    def run(verb: str, *words: str, out: str) -> dict[str, Any]:
        printed = command(verb, *words, "--quiet")
        return {"printed": printed, "out": ad.read_h5ad(out) if out.endswith(".h5ad") else Path(out).read_text("utf-8")}

    small = ("--from-scratch", "--hidden-size=32", "--layers=1", "--heads=2", "--cell-type=bulk_labels", "--epochs=1")
    names = ("--label=bulk_labels", "--rename=B cell=CD19+ B", "--resamples=10", "--table=scores.csv")
    drug, drawn = ("--perturbation=IFN-beta", "--n-genes=20"), ("--cell-type=B cell", "--n=3", "--n-genes=20")
    yield "cli/check", lambda: checked(command("check", "cells.h5ad", "--json", "--quiet"))
    yield "cli/sentences", lambda: run("sentences", "cells.h5ad", "s.jsonl", "--keep=donor", "--seed=2", out="s.jsonl")
    yield "cli/embed", lambda: run("embed", "cells.h5ad", "e.h5ad", "--pooling=genes", out="e.h5ad")
    yield "cli/annotate", lambda: run("annotate", "cells.h5ad", "a.h5ad", "--json", out="a.h5ad")
    yield "cli/perturb", lambda: run("perturb", "few.h5ad", "p.h5ad", *drug, out="p.h5ad")
    yield "cli/generate", lambda: run("generate", "g.h5ad", *drawn, out="g.h5ad")
    yield "cli/evaluate", lambda: run("evaluate", "a.h5ad", "cells.h5ad", *names, out="scores.csv")
    yield "cli/train", lambda: {"printed": command("train", "cells.h5ad", "c", *small, "--quiet"), **trained(Path("c"))}


def command(*words: str) -> str:
    """Printed text of a command."""
    call = [sys.executable, "-c", "from cell2sen.cli import main; main()", *words]
    environment = os.environ | {"PYTHONPATH": str(Path(c2s.__file__).parents[1])}
    done = subprocess.run(call, env=environment, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-1000:]}")
    return done.stdout


def of_pieces(name: str, cells: Any) -> Results:
    """Models that write a gene in several tokens: one that was trained (GPT-NeoX), and a random Gemma-2."""

    def run(verb: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if name == "gemma":
            make_gemma(Path(name), Path("bpe"))
        return verb(*arguments, model=name, dtype="float32", max_genes=30, progress=False, **options)

    generate = functools.partial(run, c2s.tl.generate, ["B", "T"], n=3, genes=cells, n_genes=10, max_new_tokens=40)
    yield f"{name}/embed", lambda: run(c2s.tl.embed, cells, pooling="genes", attention_for=[0, 3], copy=True)
    yield f"{name}/annotate", lambda: run(c2s.tl.annotate, cells, LABELS, copy=True)
    yield f"{name}/perturb", lambda: run(c2s.tl.perturb, cells, "drug", n_genes=12)
    yield f"{name}/generate", generate
    yield f"{name}/generate_free", lambda: generate(guided=False, top_p=0.9)


@functools.cache
def make_gemma(out: Path, tokenizer: Path) -> None:
    """A Gemma-2 with soft-caps, a window that is shorter than the prompts, and random weights."""
    import torch
    import transformers

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"head_dim": 8, "num_key_value_heads": 2, "max_position_embeddings": 512, "sliding_window": 24}
    shape |= {"attn_logit_softcapping": 4.0, "final_logit_softcapping": 2.0, "initializer_range": 0.3}
    shape |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    torch.manual_seed(0)
    transformers.Gemma2ForCausalLM(transformers.Gemma2Config(vocab_size=1000, **shape)).save_pretrained(out)
    for file in tokenizer.glob("tokenizer*.json"):
        shutil.copyfile(file, out / file.name)


def of_cells(name: str, cells: Any, neox: Path | None) -> Results:
    """All verbs on one data set; tokens and perturbations of a few of its cells."""
    few = cells[:: max(1, cells.n_obs // 6)].copy()
    kinds = list(itertools.islice(itertools.cycle(["IFN-beta", "STAT1 knock-out", None]), few.n_obs))
    embed = functools.partial(by_nano, c2s.tl.embed, cells, copy=True)
    annotate = functools.partial(by_nano, c2s.tl.annotate, cells, copy=True)
    perturb = functools.partial(by_nano, c2s.tl.perturb, few, kinds, n_genes=25)
    yield f"{name}/check", lambda: checked(c2s.check(cells).to_json())
    yield f"{name}/sentences", lambda: sentences(cells)
    yield f"{name}/tokens", lambda: token_ids(few, nano().tokens)
    if neox:
        yield f"{name}/tokens_neox", lambda: token_ids(few, internal("load_tokens")(str(neox), local_files_only=True))
    yield f"{name}/embed_mean", lambda: embed(attention_for=[1])
    yield f"{name}/embed_genes", lambda: embed(pooling="genes", max_genes=200).obsm
    yield f"{name}/embed_last", lambda: embed(pooling="last", max_genes=100).obsm
    yield f"{name}/embed_hidden", lambda: embed(hidden_layer=1, max_genes=100).obsm
    yield f"{name}/helical", lambda: helical(few)
    yield f"{name}/annotate", annotate
    yield f"{name}/annotate_given", lambda: annotate(LABELS, threshold=0.6, max_genes=200)
    yield f"{name}/perturb_expected", perturb
    yield f"{name}/perturb_sentence", lambda: perturb(readout="sentence")
    yield f"{name}/perturb_drawn", lambda: perturb(temperature=0.8, top_k=50, top_p=0.9, seed=3)


def sentences(cells: Any) -> dict[str, Any]:
    """Cell sentences of several recipes, and expression from them."""
    recipes = {"all": c2s.Recipe(), "random": c2s.Recipe(max_genes=300, ties="random", seed=3)}
    recipes |= {"upper": c2s.Recipe(max_genes=300, ties="alphabetical", case="upper")}
    results: dict[str, Any] = {}
    for name, recipe in recipes.items():
        written = internal("from_anndata")(cells, recipe)
        fields = ("n_genes", "symbols", "names", "organism", "fit", "scale", "account")
        results[name] = {field: getattr(written, field) for field in fields}
        results[name] |= {"ids": written.genes.flatten().to_numpy(), "texts": written[:20].texts().to_pylist()}
        results[name] |= {"expression": written.expression(written.gene_lists(50))}
    return results


def token_ids(cells: Any, tokens: Any) -> dict[str, Any]:
    """Token ids of prompts with answers, the gene of each token, and the first token of each answer."""
    lists, results = internal("from_anndata")(cells).gene_lists(200), {}
    for name, (slots, answer) in TASKS.items():
        task = internal("load_task")(name)
        # Older versions have ask= instead of answer_genes=.
        argument = "answer_genes" if "answer_genes" in inspect.signature(task.prompt).parameters else "ask"
        slots = slots | {argument: 9}
        prompts = [task.prompt(genes=genes, key=f"c{row}", **slots) for row, genes in enumerate(lists)]
        rows = tokens.encode(prompts, [answer] * len(prompts))
        results[name] = {field: np.concatenate([getattr(row, field) for row in rows]) for field in ("ids", "genes")}
        results[name] |= {"lengths": [len(row) for row in rows], "answers": [row.answer for row in rows]}
    return results


def helical(cells: Any) -> dict[str, Any]:
    """The class with Helical's names."""
    model = c2s.Cell2Sen(c2s.Cell2SenConfig(progress=False, max_genes=50, max_new_tokens=30))
    dataset = model.process_data(cells)
    vectors, maps = model.get_embeddings(dataset, output_attentions=True, emb_layer=1)
    predicted, texts = model.get_perturbations(dataset, ["IFN-beta"] * len(dataset))
    sentences = {"dataset": predicted.to_dict(), "description": dataset.info.description, "texts": texts}
    return sentences | {"vectors": vectors, "maps": maps}


def checked(text: str) -> dict[str, Any]:
    """A check without the parts that depend on the machine's speed."""
    content: dict[str, Any] = json.loads(text)
    for finding in content["findings"]:
        if finding["topic"] == "expected":
            finding["text"] = finding["text"].partition(" and ")[0]
    return content


def of_evaluations(kang: Any, pbmc: Any) -> Results:
    """Predicted responses and labels against real ones."""
    kind, rank = kang.obs["cell_type"], kang.obs.groupby(["condition", "cell_type"], observed=True).cumcount()
    real = kang[kind.isin(["B cells", "CD14+ Monocytes", "NK cells"]) & (rank < 14)].copy()
    others = kang[kind.isin(["CD4 T cells", "FCGR3A+ Monocytes"]) & (rank < 40)].copy()

    @functools.cache
    def predicted() -> Any:
        controls = real[real.obs["condition"] == "control"].copy()
        cells = by_nano(c2s.tl.perturb, controls, "IFN-beta", n_genes=25)
        for side in (cells, real):
            by_nano(c2s.tl.embed, side, max_genes=100)
        return cells

    own = {"perturbation": "condition", "context": "cell_type"}
    split = {"controls": "split", "train": others}
    names = {"naive CD4 T cell": "Naive CD4 T", "B cell": "B", "NK cell": "NK", "CD14+ monocyte": "CD14+ Mono"}
    yield "evaluate/perturb", lambda: evaluated(predicted(), real, embedding="X_cell2sen", **own)
    yield "evaluate/perturb_split", lambda: evaluated(predicted(), real, **own, **split)
    yield "evaluate/labels", lambda: evaluated(by_nano(c2s.tl.annotate, pbmc, copy=True), pbmc, rename=names)


def evaluated(predicted: Any, real: Any, **options: Any) -> dict[str, Any]:
    """Scores and report of an evaluation. Arms of older versions are methods now; both give the same result here."""
    evaluation = c2s.evaluate(predicted, real, leaks="report", resamples=20, **options)
    content: dict[str, Any] = json.loads(evaluation.to_json())
    content["scores"] = pd.DataFrame(content["scores"]).rename(columns={"arm": "method"})
    content["table"] = pd.DataFrame(content["table"])
    if "arms" in content["settings"]:
        content["settings"]["methods"] = content["settings"].pop("arms")
    plt.rcParams["svg.hashsalt"] = "golden"  # otherwise names within figures are random
    evaluation.report("report.html", layout="pca")
    report = Path("report.html").read_text(encoding="utf-8")
    return content | {"report": re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", report)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    recording, comparing = verbs.add_parser("record"), verbs.add_parser("compare")
    recording.add_argument("folder", type=Path)
    recording.add_argument("--data-dir", type=Path, help="real data; by default ../shared/data beside the repository")
    recording.add_argument("--only", nargs="+", default=[], metavar="NAME", help="compute these results only")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    comparing.add_argument("--expect", nargs="+", default=[], metavar="NAME", help="results that may differ")
    arguments = parser.parse_args()
    if arguments.verb == "compare":
        sys.exit(0 if compare(arguments.old, arguments.new, arguments.expect) else 1)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    record(arguments.folder, arguments.data_dir or (beside if beside.is_dir() else None), arguments.only)


if __name__ == "__main__":
    main()
