"""Training examples: pairs of one side of the split, names, draws, lengths."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import training_runs
from training_runs import cells_of

from cell2sen import tasks
from cell2sen.task import Task, Template
from cell2sen.training.config.data import Augmentation, Split
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.pairs import Examples, Pair, pairs

TASKS = {name: tasks.load(name) for name in ("annotate", "generate", "perturb")}
LENGTHS = {"annotate": 30, "generate": 12, "perturb": 15}
PERTURBED: dict[str, Any] = {
    "cell_type": "cell_type",
    "perturbation": {"column": "condition", "context": ["cell_type", "donor"]},
}
SPLITS = [Split(test=0.3), Split(by="donor", values=("d2", "d3")), Split(by="condition", test=0.5)]


def drawn(cells: TrainingCells, *, draw: int = 0, held_out: bool = False, **options: Any) -> list[Pair]:
    options = {"lengths": LENGTHS, "augmentation": Augmentation(), "tasks": TASKS, "seed": 0} | options
    return list(pairs(cells, draw=draw, held_out=held_out, **options))


def rows_of(cells: TrainingCells) -> dict[str, int]:
    return {name: row for row, name in enumerate(cells.names)}


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("held_out", [False, True])
def test_pairs_are_of_one_side_of_the_split(many_cells: Path, split: Split, held_out: bool) -> None:
    cells = cells_of(many_cells, tasks=list(TASKS), split=split, **PERTURBED)
    sentences = [frozenset(genes) for genes in cells.sentences(0, Augmentation(), 0).gene_names()]
    learned = drawn(cells, held_out=held_out, lengths=dict.fromkeys(LENGTHS, 1000))
    row_of, context = rows_of(cells), cells.contexts()
    assert {pair.task for pair in learned} == set(TASKS)
    for name, prompt, completion in learned:
        row = row_of[prompt.key]
        assert cells.test[row] == held_out
        if name == "perturb":
            assert frozenset(completion.strip().removesuffix(".").split()) == sentences[row]
            # The control, a cell with these genes, is of the same side and context.
            sources = [other for other, genes in enumerate(sentences) if genes == frozenset(prompt.genes)]
            assert any(
                cells.is_control(other) and cells.test[other] == held_out and context[other] == context[row]
                for other in sources
            )
            assert prompt.text.count(str(cells.obs["condition"].iloc[row])) == 2
        elif name == "generate":
            assert cells.is_control(row)


def test_sentences_to_be_written_are_those_that_were_measured(many_cells: Path) -> None:
    cells = cells_of(many_cells, tasks=list(TASKS), split=Split(test=0.3), **PERTURBED)
    measured = [set(genes) for genes in cells.sentences(0, Augmentation(), 0).gene_names()]
    row_of, lengths = rows_of(cells), dict.fromkeys(LENGTHS, 1000)
    changed = Augmentation(thin=(0.1, 0.2), ambient=0.5, gene_factors=1.0, dropout=0.5)
    learned = drawn(cells, lengths=lengths, augmentation=changed)
    assert {pair.task for pair in learned} == set(TASKS)
    for name, prompt, completion in learned:
        if name == "annotate":
            assert set(prompt.genes) != measured[row_of[prompt.key]]
        else:
            assert set(completion.strip().removesuffix(".").split()) == measured[row_of[prompt.key]]
            assert not prompt.genes or set(prompt.genes) in measured
    on_panels = drawn(cells, lengths=lengths, augmentation=Augmentation(panel=1.0))
    shares = [
        len(completion.split()) / len(measured[row_of[prompt.key]])
        for name, prompt, completion in on_panels
        if name == "generate"
    ]
    assert np.mean(shares) < 0.8


@pytest.mark.parametrize("draws", [0.25, 1, 2.5, 3])
def test_draws_count_pairs(many_cells: Path, draws: float) -> None:
    settings = {"tasks": {"annotate": draws, "generate": 1}, "cell_type": "cell_type", "split": {"test": 0}}
    cells = cells_of(many_cells, **settings)
    assert cells.n_draws == int(np.ceil(draws))
    learned = [pair for draw in range(cells.n_draws) for pair in drawn(cells, draw=draw)]
    counts = Counter(pair.task for pair in learned)
    assert counts["generate"] == 240
    assert counts["annotate"] == pytest.approx(240 * draws, abs=0 if draws == int(draws) else 25)


def test_labels_are_renamed_and_missing_ones_left_out(many_cells: Path, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(many_cells / "cells.h5ad")
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.iloc[:40, 0] = None
    adata.obs["source"] = ["author"] * 120 + ["predicted"] * 120
    adata.write_h5ad(tmp_path / "cells.h5ad")
    labels = {"column": "cell_type", "names": {"T cell": "T lymphocyte"}, "where": {"source": "author"}}
    cells = cells_of(tmp_path, tasks="annotate", cell_type=labels, split={"test": 0})
    row_of = rows_of(cells)
    learned = drawn(cells)
    assert {row_of[pair.prompt.key] for pair in learned} == set(range(40, 120))
    expected = {"T cell": " T lymphocyte.", "B cell": " B cell.", "monocyte": " monocyte."}
    for _, prompt, completion in learned:
        assert completion == expected[adata.obs["cell_type"].iloc[row_of[prompt.key]]]


def test_every_template_is_used_in_training(many_cells: Path) -> None:
    templates = (
        Template(prompt="A: {genes}:", answer=" {cell_type}."),
        Template(prompt="B: {genes}:", answer=" is {cell_type}."),
    )
    task = Task(name="annotate", answer="label", target="cell_type", templates=templates)
    learned = drawn(cells_of(many_cells, cell_type="cell_type"), tasks={"annotate": task})
    first_letters = {(prompt.text[0], completion[:4] == " is ") for _, prompt, completion in learned}
    assert first_letters == {("A", False), ("B", True)}


def test_task_outside_the_package(many_cells: Path) -> None:
    templates = (Template(prompt="{genes} of {tissue}:", answer=" {phase}."),)
    task = Task(name="phase", answer="label", target="phase", templates=templates)
    cells = cells_of(many_cells, tasks="phase", columns={"phase": "donor", "tissue": "cell_type"})
    first = drawn(cells, tasks={"phase": task}, lengths={"phase": 5})[0]
    row = rows_of(cells)[first.prompt.key]
    assert first.completion == f" {cells.obs['donor'].iloc[row]}."
    assert first.prompt.text.endswith(f" of {cells.obs['cell_type'].iloc[row]}:")
    without = cells_of(many_cells, tasks="phase", columns={"phase": "donor"})
    with pytest.raises(ValueError, match=r"need the obs column of 'tissue' \(columns: \{tissue: …\}\)"):
        drawn(without, tasks={"phase": task}, lengths={"phase": 5})


def test_tasks_without_a_defined_answer_are_refused(many_cells: Path) -> None:
    with pytest.raises(ValueError, match="task 'embed' has no answer to be learned"):
        drawn(cells_of(many_cells, tasks="embed"), tasks={"embed": tasks.load("embed")}, lengths={"embed": 5})
    markers = Task(name="markers", answer="genes", target="set", templates=(Template(prompt="{genes}:"),))
    with pytest.raises(ValueError, match=r"cannot be learned from cells: its answer is of the kind 'genes'; available"):
        drawn(cells_of(many_cells, tasks="markers"), tasks={"markers": markers}, lengths={"markers": 5})
    templates = (Template(prompt="{genes}:", answer=" {sentence}."),)
    task = Task(name="smooth", answer="sentences", target="sentence", templates=templates)
    with pytest.raises(ValueError, match="learned from labels, or from controls and a perturbation"):
        drawn(cells_of(many_cells, tasks="smooth"), tasks={"smooth": task}, lengths={"smooth": 5})


def test_text_and_yes_or_no_are_learned_from_a_column(many_cells: Path) -> None:
    for kind in ("text", "yes_no"):
        templates = (Template(prompt="{genes}:", answer=" {note}."),)
        task = Task(name="note", answer=kind, target="note", templates=templates)
        cells = cells_of(many_cells, tasks="note", columns={"note": "donor"})
        first = drawn(cells, tasks={"note": task}, lengths={"note": 5})[0]
        assert first.completion == f" {cells.obs['donor'].iloc[rows_of(cells)[first.prompt.key]]}."


def test_lengths_and_counts_of_prompts(many_cells: Path) -> None:
    cells = cells_of(many_cells, tasks=list(TASKS), **PERTURBED)
    for name, prompt, completion in drawn(cells):
        if name != "generate":
            assert len(prompt.genes) <= LENGTHS[name]
            assert f"the {len(prompt.genes)} most" in prompt.text
        if name != "annotate":
            n_answer = len(completion.removesuffix(".").split())
            assert n_answer == prompt.answer_genes <= LENGTHS[name]
            assert name == "perturb" or f"the {n_answer} most" in prompt.text


def test_controls_are_paired_with_other_controls_where_no_perturbation_has_a_name(many_cells: Path) -> None:
    perturbation = PERTURBED["perturbation"]
    cells, named = (
        cells_of(many_cells, tasks="perturb", split={"test": 0}, cell_type="cell_type", perturbation=entry)
        for entry in (perturbation, {**perturbation, "no_perturbation": "nothing"})
    )
    sentences = [tuple(genes) for genes in named.sentences(0, Augmentation(), 0).gene_lists(15)]
    rows = rows_of(named)
    learned = [(rows[pair.prompt.key], pair.prompt) for pair in drawn(named)]
    controls = [(row, prompt) for row, prompt in learned if named.is_control(row)]
    assert len(learned) - len(controls) == len(drawn(cells)) > 0
    assert len(controls) > 20
    for row, prompt in controls:
        assert "after nothing:" in prompt.text
        sources = [other for other, genes in enumerate(sentences) if genes == tuple(prompt.genes)]
        assert row not in sources
        assert all(named.is_control(other) for other in sources)
    assert not any("nothing" in prompt.text for row, prompt in learned if not named.is_control(row))


def test_held_out_pairs_are_as_many_of_each_task(folder: Path) -> None:
    config = training_runs.config({"checkpoints.eval_pairs": 9})
    cells = training_runs.cells_of(folder, **{**training_runs.FILE, "file": "cells.h5ad"})
    examples = Examples(cells={"cells.h5ad": cells}, tasks=TASKS, lengths=LENGTHS)
    counts = Counter(pair.task for pair in examples.pairs(config, held_out=True))
    assert counts == {"annotate": 3, "generate": 3, "perturb": 3}
    assert len(examples.pairs(config, held_out=False)) == 144
