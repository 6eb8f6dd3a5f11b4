"""The interferon response before and after reinforcement learning, on cells that neither training saw.

    python benchmarks/reinforcement.py --data-dir FOLDER [--trained DIR] [--set max_steps=40 ...] [--out FILE.json]

Trains recipes/interferon.yaml, unless a model that it made is given, and lets both models predict held-out controls,
greedily. Scores are means over the held-out perturbed cells, with 95 % bootstrap intervals over cells; differences are
paired. Beside them: the control itself, and the mean of the training cells of the other cell types and of the same type
after IFN-beta. Prints one JSON line.
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
from cell2sen.cli.training_options import configure
from cell2sen.inference.session import load_model
from cell2sen.inference.templates import choose_templates
from cell2sen.training import TrainConfig, rewards, train
from cell2sen.training.cells import Augmentation, Cells
from cell2sen.training.questions import Question, mean_sentence, questions

HERE = Path(__file__).parent.parent
RECIPE = HERE / "recipes" / "interferon.yaml"

#: Score → (reward, whether it looks at the gene set only). The first is what was rewarded.
SCORES = {
    "kendall_tau_interferon": ("kendall_tau", True), "change_interferon": ("change", True),
    "overlap_interferon": ("overlap", True), "kendall_tau_all": ("kendall_tau", False), "change_all": ("change", False),
    "overlap_all": ("overlap", False),
}  # fmt: skip


def scores(written: Sequence[Sequence[str]], asked: Sequence[Question], genes: Sequence[str]) -> dict[str, np.ndarray]:
    """Every score of every answer."""
    found = {}
    for name, (reward, of_set) in SCORES.items():
        answers = [
            rewards.Answer(written=w, truth=q.truth, control=q.control, genes=genes if of_set else ())
            for w, q in zip(written, asked, strict=True)
        ]
        found[name] = rewards.score([reward], answers)[:, 0]
    return found


def summary(values: np.ndarray, draws: int = 2000) -> list[float]:
    """Mean and its 95 % bootstrap interval over cells."""
    values = values[np.isfinite(values)]
    drawn = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return [round(float(one), 4) for one in (values.mean(), low, high)]


def predict(model: str, asked: Sequence[Question], symbols: Sequence[str]) -> list[list[str]]:
    """The answers of a model, greedily."""
    backend = load_model({"model": model, "progress": False})
    task = choose_templates(tasks.load("perturb"), backend.model)
    assert asked[0].prompt.text.endswith(task.prompt(perturbation="IFN-beta").text[-20:])
    return [text.split() for text in backend.generate([one.prompt for one in asked], Sampling(), genes=symbols)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", help="What is trained; the recipe's model by default.")
    parser.add_argument("--trained", type=Path, help="A model that this recipe made, not to be trained again.")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE, changes of the recipe.")
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
    [data], grpo = config.data, config.grpo
    assert config.model
    before = load_model({"model": config.model, "progress": False})
    cells = Cells(data, base, before.model.recipe.case)
    cells.keep_genes(before.known_genes(cells.symbols))
    worded = {"perturb": choose_templates(tasks.load("perturb"), before.model)}
    asked = list(
        questions(cells, worded, draw=0, held_out=True, lengths=dict(config.lengths), augmentation=Augmentation(),
                  seed=1, truth="mean")
    )  # fmt: skip
    genes = [gene for name in grpo.gene_set for gene in rewards.gene_set(base / grpo.gene_sets, name)]
    genes = [gene for gene in genes if gene in set(cells.symbols)]
    types = cells.obs[data.context[0]].astype(str).to_numpy()
    moved = ~cells.test & (cells.perturbation == "IFN-beta")
    of_cell = dict(zip(cells.names, types, strict=True))
    kinds = [of_cell[one.prompt.key] for one in asked]
    same = {kind: mean_sentence(cells, np.flatnonzero(moved & (types == kind))) for kind in set(kinds)}
    others = {kind: mean_sentence(cells, np.flatnonzero(moved & (types != kind))) for kind in set(kinds)}
    written = {
        "before": predict(config.model, asked, cells.symbols),
        "after": predict(str(trained), asked, cells.symbols),
        "control": [list(one.prompt.genes) for one in asked],
        "mean_of_other_types": [others[k][: len(q.truth)] for k, q in zip(kinds, asked, strict=True)],
        "mean_of_same_type": [same[k][: len(q.truth)] for k, q in zip(kinds, asked, strict=True)],
    }
    found = {name: scores(answers, asked, genes) for name, answers in written.items()}
    result: dict = {
        "benchmark": "reinforcement", "n_cells": len(asked), "genes_of_the_set": len(genes),
        "weights_before": before.model.provenance()["weights_sha256"],
        "scores": {score: {name: summary(values[score]) for name, values in found.items()} for score in SCORES},
        "gain": {score: summary(found["after"][score] - found["before"][score]) for score in SCORES},
    }  # fmt: skip
    result["distinct_answers"] = {name: len({tuple(one) for one in written[name]}) for name in ("before", "after")}
    sys.stderr.write(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
