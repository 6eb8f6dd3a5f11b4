"""Processor time of edited sentences: tokens before the edit read once for all edits of a cell, and read each time.

    python benchmarks/screen_prefix.py --data-dir FOLDER [--cells 2 --genes 1000 --max-genes 600]

Embedded model, each of the commonest genes of pbmc3k deleted from random cells, one thread. Prints seconds of processor
time per edited sentence, what 200 cells would take, and the largest difference of the embeddings."""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import torch

from cell2sen.inference.screen import readouts
from cell2sen.inference.screen.edits import EditedSentences, parse_edits
from cell2sen.inference.session import start

warnings.filterwarnings("ignore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=2)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--max-genes", type=int, default=600)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    adata = ad.read_h5ad(arguments.data_dir / "pbmc3k_2638x13714.h5ad")
    cells_with = np.asarray((adata.X > 0).sum(axis=0)).ravel()
    some = adata[np.sort(np.random.default_rng(0).permutation(adata.n_obs)[: arguments.cells])].copy()
    session = start(some, "embed", {"progress": False, "max_genes": arguments.max_genes})
    symbols = session.sentences.symbols
    order = [adata.var_names[gene] for gene in np.argsort(-cells_with, kind="stable")]
    names = [name for name in order if name in set(symbols)][: arguments.genes]
    edited = EditedSentences(session.sentences, np.arange(some.n_obs), session.length)
    places, lists, edits = [], [], []
    for edit in parse_edits(names, "delete", symbols):
        changed, genes = edited.changed(edit)
        places, lists, edits = places + changed, lists + genes, edits + [edit] * len(changed)
    weights = np.random.default_rng(1).normal(size=session.backend.config.hidden_size)  # type: ignore[attr-defined]
    readout = readouts.EmbeddingReadout(session, weights)
    sentences = edited.sentences(places, lists)
    values, seconds = [], []
    for changes in (edits, [None] * len(edits)):  # without an edit, sentences are read whole
        readout.values(sentences[:3], np.array(places[:3]), changes[:3])
        started = time.process_time()
        values.append(readout.values(sentences, np.array(places), changes))
        seconds.append(time.process_time() - started)
    n = len(edits)
    for name, taken in zip(("shared", "whole"), seconds, strict=True):
        minutes = taken / arguments.cells * 200 / 60
        each = taken / n * 1000
        print(f"{name}: {n} sentences, {each:.1f} ms each; {minutes:.0f} minutes for {len(names)} genes x 200 cells")
    print(f"ratio {seconds[1] / seconds[0]:.2f}, largest difference {np.abs(values[0] - values[1]).max():.1e}")


if __name__ == "__main__":
    main()
