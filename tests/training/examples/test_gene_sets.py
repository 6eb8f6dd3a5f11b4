"""Training examples of gene sets: held-out sets, prompts of both tasks, draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cell2sen import tasks
from cell2sen.data.genes.gene_sets import write_gmt
from cell2sen.training.config.data import GeneSetFile
from cell2sen.training.config.training_file import from_mapping
from cell2sen.training.examples.gene_sets import TrainingSets

TASKS = {name: tasks.load(name) for name in ("name_gene_set", "list_gene_set")}
LENGTHS = {"name_gene_set": 5, "list_gene_set": 5}


def sets_of(folder: Path, **settings: Any) -> TrainingSets:
    sets = {f"SET_{number}": [f"G{number + gene}" for gene in range(4 + number % 5)] for number in range(20)}
    write_gmt(folder / "sets.gmt", sets)
    return TrainingSets(GeneSetFile(file="sets.gmt", **settings), folder, "upper")


def pairs(sets: TrainingSets, **options: Any) -> list[tuple[str, Any, str]]:
    return list(sets.pairs(TASKS, **{"draw": 0, "held_out": False, "lengths": LENGTHS, "seed": 0, **options}))


def test_held_out_sets_are_in_no_training_example(tmp_path: Path) -> None:
    sets = sets_of(tmp_path, test=0.25)
    assert sets.test.sum() == 5
    keys = {side: {prompt.key for _, prompt, _ in pairs(sets, held_out=side)} for side in (False, True)}
    assert keys[True] == {name for name, test in zip(sets.names, sets.test, strict=True) if test}
    assert keys[True] | keys[False] == set(sets.names)
    assert not keys[True] & keys[False]
    assert sets_of(tmp_path, hold_out=("SET_3",)).test.tolist() == [number == 3 for number in range(20)]
    with pytest.raises(ValueError, match=r"has no gene sets \['X'\] to hold out"):
        sets_of(tmp_path, hold_out=("X",))


def test_the_same_genes_under_two_names_are_on_one_side(tmp_path: Path) -> None:
    write_gmt(tmp_path / "sets.gmt", {"A": ["X", "Y"], "B": ["Z", "Y"], "C": ["Y", "X"]})
    sets = TrainingSets(GeneSetFile(file="sets.gmt", hold_out=("A",)), tmp_path, "upper")
    assert sets.test.tolist() == [True, False, True]


def test_examples_of_both_tasks(tmp_path: Path) -> None:
    examples = {(task, prompt.key): (prompt, answer) for task, prompt, answer in pairs(sets_of(tmp_path, test=0.0))}
    assert len(examples) == 40
    prompt, answer = examples["name_gene_set", "SET_0"]
    assert list(prompt.genes) == ["G0", "G1", "G2", "G3"]
    assert answer == " SET 0."
    prompt, answer = examples["list_gene_set", "SET_0"]
    assert "SET 0" in prompt.text
    assert "Write 4 Homo sapiens genes" in prompt.text
    assert answer == " G0 G1 G2 G3."


def test_long_sets_are_drawn_in_parts(tmp_path: Path) -> None:
    sets = sets_of(tmp_path, test=0.0, tasks={"name_gene_set": 2.0})
    first, again, other = (
        {p.key: list(p.genes) for task, p, _ in pairs(sets, draw=draw) if task == "name_gene_set"} for draw in (0, 0, 1)
    )
    assert first == again
    assert {len(genes) for genes in first.values()} == {4, 5}
    assert all(genes == sorted(genes) for genes in first.values())
    assert first["SET_4"] != other["SET_4"]
    assert first["SET_0"] == other["SET_0"]


def test_shares_of_draws_and_unknown_genes(tmp_path: Path) -> None:
    sets = sets_of(tmp_path, test=0.0, tasks={"name_gene_set": 1.5})
    assert sets.n_draws == 2
    assert len(pairs(sets)) == 20
    assert 2 <= len(pairs(sets, draw=1)) <= 18
    sets.keep_genes(lambda symbols: np.array([symbol != "G0" for symbol in symbols]))
    assert sets.genes[0] == ("G1", "G2", "G3")
    with pytest.raises(ValueError, match=r"tasks \['annotate'\] cannot be learned from gene sets"):
        sets_of(tmp_path, tasks={"annotate": 1.0})


def test_training_files_name_them() -> None:
    config = from_mapping(
        {"data": {"gene_sets": [{"file": "a.gmt", "tasks": ["name_gene_set"], "test": 0.2}]}, "model": {"start": "x"}}
    )
    assert config.data.gene_sets == (GeneSetFile(file="a.gmt", tasks={"name_gene_set": 1.0}, test=0.2),)
    assert config.data.files == ()
    with pytest.raises(ValueError, match="share of sets to hold out"):
        GeneSetFile(file="a.gmt", test=1.0)
