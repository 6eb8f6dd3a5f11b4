"""Response to IFN-beta before and after reinforcement learning, on cells that are held out of both trainings.

    python benchmarks/reinforcement.py --data-dir FOLDER [--trained DIR] [--set optimiser.max_steps=40 ...] [--out FILE]

Trains recipes/interferon.yaml, unless its result is given, and predicts held-out controls with both models, greedily.
Scores are means over the held-out perturbed cells, with 95 % bootstrap intervals over cells; differences are paired.
Beside them: the control itself, and the mean of the training cells after IFN-beta of the other cell types and of the
same type. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cell2sen import tasks
from cell2sen.backend import Sampling
from cell2sen.data.genes.gene_sets import gene_set
from cell2sen.inference.session import load_model
from cell2sen.inference.templates import choose_templates
from cell2sen.training import TrainConfig, rewards, train
from cell2sen.training.config.data import Augmentation
from cell2sen.training.config.options import configure
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.references import ReferencedPrompt, mean_sentence, prompts_with_references

HERE = Path(__file__).parent.parent
RECIPE = HERE / "recipes" / "interferon.yaml"

#: Score → (reward, whether it compares the gene set only). The first one is trained.
SCORES = {
    "kendall_tau_interferon": ("kendall_tau", True), "change_interferon": ("change", True),
    "overlap_interferon": ("overlap", True), "kendall_tau_all": ("kendall_tau", False), "change_all": ("change", False),
    "overlap_all": ("overlap", False),
}  # fmt: skip


def scores(
    written: Sequence[Sequence[str]], prompts: Sequence[ReferencedPrompt], genes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Every score of every answer."""
    values = {}
    for name, (reward, set_only) in SCORES.items():
        compared = genes if set_only else ()
        answers = [
            rewards.Answer(written=sentence, truth=prompt.truth, control=prompt.control, genes=compared)
            for sentence, prompt in zip(written, prompts, strict=True)
        ]
        values[name] = rewards.score([reward], answers)[:, 0]
    return values


def summary(values: np.ndarray, draws: int = 2000) -> list[float]:
    """Mean, and the limits of its 95 % bootstrap interval over cells."""
    values = values[np.isfinite(values)]
    drawn = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return [round(float(value), 4) for value in (values.mean(), low, high)]


def predict(model: str, prompts: Sequence[ReferencedPrompt], symbols: Sequence[str]) -> list[list[str]]:
    """Greedy answers of a model."""
    backend = load_model({"model": model, "progress": False})
    task = choose_templates(tasks.load("perturb"), backend.model)
    assert prompts[0].prompt.text.endswith(task.prompt(perturbation="IFN-beta").text[-20:])
    texts = backend.generate([prompt.prompt for prompt in prompts], Sampling(), genes=symbols)
    return [text.split() for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", help="Model to train; the recipe's by default.")
    parser.add_argument("--trained", type=Path, help="Result of this recipe, which is then not trained again.")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE, a change of the recipe.")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    config = configure(RECIPE, {"model": arguments.model}, arguments.set)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trained = arguments.trained or Path(folder) / "trained"
        if not arguments.trained:
            train(config, trained, base=arguments.data_dir)
        seconds = time.perf_counter() - started
        result = measure(config, arguments.data_dir, trained)
    result |= {"seconds_of_training": None if arguments.trained else round(seconds, 1)}
    line = json.dumps(result)
    print(line)
    if arguments.out:
        arguments.out.write_text(line + "\n", encoding="utf-8")


def measure(config: TrainConfig, base: Path, trained: Path) -> dict:
    """All numbers of the JSON line."""
    [file], grpo = config.data.files, config.grpo
    assert config.model.start
    before = load_model({"model": config.model.start, "progress": False})
    cells = TrainingCells(file, base, before.model.recipe.case)
    cells.keep_genes(before.known_genes)
    worded = {"perturb": choose_templates(tasks.load("perturb"), before.model)}
    prompts = list(
        prompts_with_references(
            cells, worded, draw=0, held_out=True, lengths=dict(config.data.lengths), augmentation=Augmentation(), seed=1
        )
    )
    genes = [gene for name in grpo.genes.sets for gene in gene_set(base / grpo.genes.gmt, name)]
    genes = [gene for gene in genes if gene in set(cells.symbols)]
    types = cells.obs[file.context[0]].astype(str).to_numpy()
    treated = ~cells.test & (cells.perturbation == "IFN-beta")
    type_of_cell = dict(zip(cells.names, types, strict=True))
    kinds = [type_of_cell[prompt.prompt.key] for prompt in prompts]
    same = {kind: mean_sentence(cells, np.flatnonzero(treated & (types == kind))) for kind in set(kinds)}
    others = {kind: mean_sentence(cells, np.flatnonzero(treated & (types != kind))) for kind in set(kinds)}
    written = {
        "before": predict(config.model.start, prompts, cells.symbols),
        "after": predict(str(trained), prompts, cells.symbols),
        "control": [list(prompt.prompt.genes) for prompt in prompts],
        "mean_of_other_types": [others[kind][: len(prompt.truth)] for kind, prompt in zip(kinds, prompts, strict=True)],
        "mean_of_same_type": [same[kind][: len(prompt.truth)] for kind, prompt in zip(kinds, prompts, strict=True)],
    }
    values = {name: scores(answers, prompts, genes) for name, answers in written.items()}
    result: dict = {
        "benchmark": "reinforcement",
        "n_cells": len(prompts),
        "genes_of_the_set": len(genes),
        "weights_before": before.model.provenance()["weights_sha256"],
        "scores": {score: {name: summary(values[name][score]) for name in values} for score in SCORES},
        "gain": {score: summary(values["after"][score] - values["before"][score]) for score in SCORES},
    }
    result["distinct_answers"] = {name: len(set(map(tuple, written[name]))) for name in ("before", "after")}
    sys.stderr.write(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
