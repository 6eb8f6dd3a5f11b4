"""Response to IFN-beta of a cell type never seen treated, from examples of other types in the prompt.

    python benchmarks/in_context.py --data-dir FOLDER --keep MODELS [--types ...] [--arms ...] [--steps 500]

Trial of a task that is not part of the package. A small model learns the controls of Kang et al. from scratch
(recipes/nano-base.yaml without its other files and with fewer steps). From there each arm is trained for each left-out
type T, without the treated cells of T, on the same pairs of a control and a treated cell of one type (or another
control, for no perturbation), in the same number of steps:

alone      the control is the prompt: the task perturb
examples   before it come two controls, each with a treated cell (or another control) of its own type
unnamed    the same, but the perturbation has no name: what differs between the prompts are the examples alone

Types of examples are drawn by the likeness of their controls to those of the type in question, as the strongest simple
method weights them; in training from the types besides that of the pair. A response is the expected expression after
prompts of the perturbation less that after prompts of no perturbation, mean over the controls of T. Steps and rates
were set beforehand, none was chosen by a result. Beside the arms: the simple methods of left_out.py, and the true
change of the genes that lists of this length have. Prints one JSON line. `benchmarks/model_share.py --models MODELS`
takes the models of the arm alone."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
import scipy.sparse as sp
from left_out import HERE, MIN_CELLS, TYPES, measure, measured, rounded, scores

from cell2sen.inference.responses.expected_response import own_rank_values
from cell2sen.inference.session import load_model
from cell2sen.model import METADATA_FILE, resolve
from cell2sen.prompt import Prompt
from cell2sen.task import Task, Template
from cell2sen.tasks import load as load_task
from cell2sen.training import read_config, train
from cell2sen.training.config.data import Augmentation, LabelNames, Split
from cell2sen.training.config.settings import TrainConfig
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.draws import Draw, control_pairs
from cell2sen.training.examples.pair import Pair
from cell2sen.training.network import loading
from cell2sen.training.network.change_vectors import add_change_vectors
from cell2sen.training.trainers.setup import TrainingRun

warnings.filterwarnings("ignore")
ARMS = {"alone": 0, "examples": 2, "unnamed": 2}
TREATED, UNTREATED = "IFN-beta", "no perturbation"
ALONE = load_task("perturb")
TASK = Task(
    name="in_context",
    answer="sentences",
    target="sentence",
    cells=(1, 5),
    templates=(
        Template(
            prompt=(
                "The {n_genes} most expressed genes of {organism} cells, strongest first; an untreated cell is "
                "followed by one of its type after {perturbation}.\n{cells}Cell after {perturbation}:"
            ),
            cell="Cell {number}: {genes}.\n",
            answer=" {sentence}.",
        ),
    ),
)


def base_model(data_dir: Path, out: Path, steps: int, n_genes: int) -> Path:
    """Train a model on the controls alone, from scratch, into `out`, and return it."""
    recipe = read_config(HERE / "recipes" / "nano-base.yaml")
    [kang] = [file for file in recipe.data.files if file.file.startswith("kang_ifnb")]
    tasks = {"generate": 1.0, "perturb": 3.0}
    lengths = dict.fromkeys(tasks, n_genes)
    files = (dataclasses.replace(kang, tasks=tasks),)
    config = dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, files=files, lengths=lengths, names=LabelNames()),
        optimiser=dataclasses.replace(recipe.optimiser, max_steps=steps),
        compute=dataclasses.replace(recipe.compute, bf16=False),
        checkpoints=dataclasses.replace(recipe.checkpoints, eval_pairs=16),
        card=dataclasses.replace(recipe.card, score_cells=0),
    )
    train(config, out, base=data_dir, progress=sys.stderr.isatty())
    return out


class Examples:
    """Cells of other types for prompts, drawn with one seed."""

    def __init__(self, cells: TrainingCells, arm: str, seed: int) -> None:
        self.cells, self.arm, self.generator = cells, arm, np.random.default_rng([seed, 17])
        self.kinds = np.array([context[0] for context in cells.contexts()], dtype=object)
        treated = np.array([value == TREATED for value in cells.perturbation])
        side = ~cells.test
        self.control = {kind: np.flatnonzero(~treated & side & (self.kinds == kind)) for kind in set(self.kinds)}
        self.treated = {kind: np.flatnonzero(treated & side & (self.kinds == kind)) for kind in set(self.kinds)}
        self.known = sorted(
            kind for kind in self.control if min(len(self.control[kind]), len(self.treated[kind])) >= MIN_CELLS
        )
        self.means = {kind: cells.mean_expression(rows) for kind, rows in self.control.items() if len(rows)}
        self.weights = {kind: self._weights(kind) for kind in self.means}

    def _weights(self, kind: str) -> tuple[list[str], np.ndarray]:
        """Other known types, and the probabilities with which they are drawn."""
        others = [other for other in self.known if other != kind]
        rho = np.array([np.corrcoef(self.means[kind], self.means[other])[0, 1] for other in others])
        raw = np.sqrt([len(self.treated[other]) for other in others]) * np.exp((rho - rho.max()) / 0.08)
        return others, raw / raw.sum()

    def prompt(self, lists: Sequence[Sequence[str]], names: Sequence[str], source: int, key: str, after: str) -> Prompt:
        """Prompt for the control `source`, with examples of what comes `after`."""
        rows: list[int] = []
        kinds, weights = self.weights[self.kinds[source]]
        for kind in self.generator.choice(kinds, ARMS[self.arm], p=weights):
            ends = self.treated[kind] if after == TREATED else self.control[kind]
            rows += [int(self.generator.choice(self.control[kind])), int(self.generator.choice(ends))]
        if not rows:
            return ALONE.prompt(genes=lists[source], key=key, answer_genes=len(lists[source]), perturbation=after)
        rows.append(source)
        cells = {f"{names[row]} {number}": lists[row] for number, row in enumerate(rows)}
        shown = "the treatment" if self.arm == "unnamed" else after
        return TASK.prompt(cells=cells, key=key, answer_genes=len(lists[source]), perturbation=shown)


@dataclasses.dataclass(frozen=True)
class GivenPairs:
    """Pairs in place of those of a file."""

    given: list[Pair]

    def pairs(self, config: TrainConfig, *, held_out: bool) -> list[Pair]:
        """The pairs; none is held out."""
        return [] if held_out else self.given


def training_cells(data_dir: Path, base: Path, kind: str, draws: float) -> tuple[TrainConfig, TrainingCells]:
    """Settings of a training from `base` without the treated cells of this type, and its cells."""
    recipe = read_config(HERE / "recipes" / "nano.yaml")
    [kang] = [file for file in recipe.data.files if file.file.startswith("kang_ifnb")]
    split = Split(by="cell_type", values=(kind,), perturbed_only=True, test=0.0)
    file = dataclasses.replace(kang, tasks={"perturb": draws}, split=split)
    config = dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, files=(file,), names=LabelNames()),
        model=dataclasses.replace(recipe.model, start=str(base), dropout=0.0),
        optimiser=dataclasses.replace(recipe.optimiser, learning_rate=2e-3),
        compute=dataclasses.replace(recipe.compute, bf16=False),
        checkpoints=dataclasses.replace(recipe.checkpoints, eval_steps=0.1),
    )
    cells = TrainingCells(file, data_dir, resolve(base).recipe.case)
    cells.keep_genes(load_model({"model": str(base), "progress": False}).known_genes)
    return config, cells


def pairs(cells: TrainingCells, arm: str, augmentation: object, n_genes: int) -> list[Pair]:
    """Training pairs of an arm; the pairs of cells are the same in all."""
    found, chosen = [], Examples(cells, arm, 0)
    for number in range(cells.n_draws):
        drawn = Draw(cells, number, False, augmentation, [0, number, 1])
        lists, names = drawn.sentences.gene_lists(n_genes), drawn.sentences.names
        for source, cell in control_pairs(cells, drawn, drawn.rows("perturb")):
            if chosen.kinds[source] not in chosen.weights:
                continue
            after = UNTREATED if cells.is_control(cell) else TREATED
            prompt = chosen.prompt(lists, names, source, str(names[cell]), after)
            found.append(Pair(TASK.name, prompt, TASK.complete(sentence=lists[cell])))
    return found


def trained(config: TrainConfig, cells: TrainingCells, arm: str, n_genes: int, base: Path, out: Path) -> int:
    """Train an arm into `out`; the number of pairs."""
    import torch

    torch.manual_seed(0)
    given = pairs(cells, arm, config.data.augmentation, n_genes)
    model = loading.load(config.model, resolve(base))
    add_change_vectors(model, {cells.data.file: cells}, n_genes, config.model.change_vectors or 0, 0)
    folder = out.with_name(f"{out.name}.training")
    run = TrainingRun(
        config=config, examples=GivenPairs(given), model=model, folder=folder, base=Path(),
        resume=folder.exists(), progress=False,
    )  # fmt: skip
    trainer, _ = run.sft_trainer()
    longest = max(run.sets[0]["length"])
    run.fit(trainer, folder)
    network = trainer.accelerator.unwrap_model(trainer.model)
    network.config.use_cache = True
    shutil.copytree(base, out)
    network.to(torch.bfloat16).save_pretrained(out)
    metadata = json.loads((out / METADATA_FILE).read_text(encoding="utf-8"))
    metadata["perturbations"] = {TREATED: sum(map(len, Examples(cells, arm, 0).treated.values()))}
    (out / METADATA_FILE).write_text(json.dumps(metadata), encoding="utf-8")
    shutil.rmtree(folder)
    sys.stderr.write(f"{arm}: {len(given)} pairs, at most {longest} tokens, {trainer.state.global_step} steps\n")
    return len(given)


def response(model: Path, cells: TrainingCells, arm: str, kind: str, n_genes: int, n_all: int) -> np.ndarray:
    """Predicted change of each control of a type, float64 (cells, genes of the file)."""
    backend, chosen = load_model({"model": str(model), "progress": False}), Examples(cells, arm, 1)
    sentences = cells.sentences(0, Augmentation(), 0)
    lists, rows = sentences.gene_lists(n_genes), chosen.control[kind]
    values = own_rank_values(sp.csr_matrix(cells.anndata(rows).X), np.array([len(lists[row]) for row in rows]))
    means = []
    for after in (TREATED, UNTREATED):
        prompts = [chosen.prompt(lists, sentences.names, row, str(sentences.names[row]), after) for row in rows]
        means.append(backend.expect(prompts, list(cells.symbols), values, seed=0).astype(np.float64))
    change = np.zeros((len(rows), n_all))
    change[:, cells.columns] = means[0] - means[1]  # no gene of the file is there twice
    return change


def highest_only(log: np.ndarray, n_genes: int) -> np.ndarray:
    """Expression of the highest genes of each cell; 0 for the others."""
    kept = np.argsort(np.argsort(-log, axis=1, kind="stable"), axis=1) < n_genes
    return np.where(kept, log, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--types", nargs="+", default=[TYPES[0], TYPES[2]])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--draws", type=float, default=2.0, help="how often each cell is drawn")
    parser.add_argument("--steps", type=int, default=500, help="of the training on controls")
    parser.add_argument("--n-genes", type=int, default=100, help="genes of each list; at most 150 in 1,024 tokens")
    parser.add_argument("--keep", type=Path, required=True, help="folder for the models; what is there is used again")
    arguments = parser.parse_args()
    adata = ad.read_h5ad(arguments.data_dir / "kang_ifnb_2000x9015.h5ad")
    sc.pp.normalize_total(copy := adata.copy(), target_sum=1e4)
    sc.pp.log1p(copy)
    log = copy.X.toarray()
    result: dict = {"benchmark": "in_context", "n_genes": arguments.n_genes, "draws": arguments.draws, "types": {}}
    with tempfile.TemporaryDirectory() as temporary:
        base = arguments.keep / "base"
        if not base.exists():
            base_model(arguments.data_dir, base, arguments.steps, arguments.n_genes)
        for kind in arguments.types:
            config, cells = training_cells(arguments.data_dir, base, kind, arguments.draws)
            own = (adata.obs["cell_type"] == kind).to_numpy()
            treated = (adata.obs["condition"] == TREATED).to_numpy()
            before, after = log[own & ~treated], log[own & treated]
            known = measured(arguments.data_dir, kind, Path(temporary) / f"known-{kind}")
            table = measure(adata, log, kind, known, [])
            carried = highest_only(after, arguments.n_genes).mean(axis=0)
            carried -= highest_only(before, arguments.n_genes).mean(axis=0)
            table["change_within_lists"] = scores(before.mean(axis=0), after.mean(axis=0), carried)
            for arm in arguments.arms:
                started = time.process_time()
                model = arguments.keep / f"{kind.replace(' ', '_')}-{'0' if arm == 'alone' else arm}"
                n_pairs = 0 if model.exists() else trained(config, cells, arm, arguments.n_genes, base, model)
                minutes = (time.process_time() - started) / 60
                change = response(model, cells, arm, kind, arguments.n_genes, log.shape[1]).mean(axis=0)
                table[arm] = scores(before.mean(axis=0), after.mean(axis=0), change)
                table[arm] |= {"pairs": n_pairs, "minutes_of_training": minutes}
                sys.stderr.write(f"{kind}, {arm}: {json.dumps(rounded(table[arm]))}\n")
            result["types"][kind] = rounded(table)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
