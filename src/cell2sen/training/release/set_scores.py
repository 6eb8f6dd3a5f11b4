"""Scores of a new model on held-out gene sets, beside simple baselines, for its card."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cell2sen.backend import SENTENCE_END, Sampling
from cell2sen.evaluation.evaluate import evaluate
from cell2sen.inference.groups.gene_sets import list_sets, name_sets
from cell2sen.inference.options import Options
from cell2sen.inference.session import load_model
from cell2sen.model import resolve
from cell2sen.training.examples.gene_sets import TrainingSets
from cell2sen.training.release.scorecard import RESAMPLES, entries

#: Tokens of a name.
NAME_TOKENS = 32


def set_scores(folder: Path, sets: Iterable[TrainingSets], limit: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Scores of each GMT file, task and metric, as :func:`cell2sen.training.release.scorecard.scores`.

    Parameters
    ----------
    folder
        Directory of the model.
    limit
        Maximum number of held-out sets of each file; 0 for none.
    """
    scores: list[dict[str, Any]] = []
    options: Options | None = None
    for file in sets:
        usable = [place for place in np.flatnonzero(file.test) if len(file.genes[place]) > 1]
        drawn = np.random.default_rng(seed).permutation(usable)[:limit]
        if not len(drawn):
            continue
        options = options or {"model": load_model({"model": resolve(folder), "progress": False}), "progress": False}
        real = {file.names[place]: file.genes[place] for place in sorted(drawn.tolist())}
        train = {file.names[place]: file.genes[place] for place in np.flatnonzero(~file.test)}
        given: Options = {**options, "organism": file.organism}
        for task in file.data.tasks:
            predicted: dict[str, Any]
            if task == "name_gene_set":
                sampling = Sampling(max_new_tokens=NAME_TOKENS, stop=SENTENCE_END)
                predicted = dict(zip(real, name_sets(real, given, sampling=sampling).names, strict=True))
            else:
                numbers = {name: len(genes) for name, genes in real.items()}
                listed = list_sets(list(real), given, genes=_genes(folder, file), n_genes=numbers, sampling=Sampling())
                predicted = {name: answer.genes for name, answer in zip(real, listed.answers, strict=True)}
            evaluated = evaluate(
                predicted,
                real,
                task=task,  # type: ignore[arg-type]
                train=train,
                leaks="report",
                resamples=RESAMPLES,
            )
            scores += [{**entry, "unit": "sets"} for entry in entries(evaluated, file.data.file, task)]
    return scores


def _genes(folder: Path, file: TrainingSets) -> list[str] | None:
    """Genes that lists may have: the model's own list (``None``), or else all genes of the file."""
    return None if resolve(folder).genes else sorted({gene for genes in file.genes for gene in genes})
