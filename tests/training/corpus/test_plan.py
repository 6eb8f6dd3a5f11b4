"""Plan: parts hold each cell once, groups stay together, sections whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import training_cells

from cell2sen import tasks
from cell2sen.training.config.data import TrainingFile
from cell2sen.training.config.training_file import build
from cell2sen.training.corpus.plan import Part, grouped, parts_of, read_part
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.pairs import Examples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cells")
    training_cells.write(path / "a.h5ad", n=400)
    adata = anndata.read_h5ad(path / "a.h5ad")
    adata.obs["sample"] = [f"s{number % 37}" for number in range(400)]
    adata.obs["cluster"] = [f"c{number % 3}" for number in range(400)]
    adata.obs["section"] = ["left" if number < 150 else "right" for number in range(400)]
    adata.obs["caption"] = "Cells."
    adata.obsm["spatial"] = np.random.default_rng(0).random((400, 2))
    adata.write_h5ad(path / "a.h5ad")
    return path


def examples(folder: Path, drawn: dict[str, float], **changes: Any) -> Examples:
    file: TrainingFile = build(
        TrainingFile,
        {
            "file": "a.h5ad",
            "tasks": drawn,
            "cell_type": "cell_type",
            "perturbation": {"column": "condition", "context": ["cell_type", "donor"]},
            "columns": {"sample": "sample", "caption_sample": "cluster", "caption": "caption"},
            "split": {"test": 0.25},
        }
        | changes,
    )
    cells = TrainingCells(file, folder, "upper", values=False)
    loaded = {name: tasks.load(name) for name in drawn}
    return Examples(cells={"a.h5ad": cells}, tasks=loaded, lengths=dict.fromkeys(drawn, 10))


def test_each_task_has_each_cell_once(folder: Path) -> None:
    drawn = {"annotate": 2, "generate": 1, "sample_cell_types": 1, "caption": 0.5, "perturb": 1}
    planned = examples(folder, drawn)
    cells = planned.cells["a.h5ad"]
    parts = parts_of(planned, 60, seed=0)
    assert [part.number for part in parts] == list(range(len(parts)))
    for held_out in (False, True):
        for name in drawn:
            places = [part.places for part in parts if part.held_out == held_out and name in part.tasks]
            found = np.concatenate(places)
            assert sorted(found) == np.flatnonzero(cells.test == held_out).tolist()
            assert all(len(part) <= 60 and (np.diff(part) > 0).all() for part in places)
    together = [set(part.tasks) for part in parts if not part.held_out]
    assert {"annotate", "generate"} in together
    assert {"sample_cell_types"} in together


def test_samples_and_contexts_are_not_torn_apart(folder: Path) -> None:
    planned = examples(folder, {"sample_cell_types": 1, "perturb": 1})
    cells = planned.cells["a.h5ad"]
    for name, keys in (("sample_cell_types", cells.values("sample").tolist()), ("perturb", cells.contexts())):
        parts_of_key: dict[Any, set[int]] = {}
        for part in parts_of(planned, 60, seed=0):
            if name in part.tasks and not part.held_out:
                for place in part.places:
                    parts_of_key.setdefault(keys[place], set()).add(part.number)
        assert len({min(numbers) for numbers in parts_of_key.values()}) > 3
        assert all(len(numbers) == 1 for numbers in parts_of_key.values())


def test_large_groups_are_split_at_random_and_evenly() -> None:
    keys = [None if place % 10 == 9 else "big" if place % 2 else ("x", place % 4) for place in range(1000)]
    parts = list(grouped(np.arange(1000), keys, 100, 100, np.random.default_rng(0)))
    assert sorted(np.concatenate(parts)) == [place for place in range(1000) if place % 10 != 9]
    big = [part for part in parts if keys[part[0]] == "big"]
    assert [len(part) for part in big] == [100] * 4
    assert all(part.max() - part.min() > 800 for part in big)  # from the whole file
    whole = list(grouped(np.arange(1000), keys, 100, 1000, np.random.default_rng(0)))
    assert 400 in [len(part) for part in whole]


def test_sections_are_whole(folder: Path) -> None:
    planned = examples(
        folder, {"same_neighbourhood": 1, "annotate": 1}, matrix={"space": {"radius": 0.2, "section": "section"}}
    )
    sections = planned.cells["a.h5ad"].space.sections
    parts = [part for part in parts_of(planned, 60, seed=0) if "same_neighbourhood" in part.tasks]
    assert [set(sections[part.places]) for part in parts if not part.held_out] == [{"left"}, {"right"}]
    assert max(len(part.places) for part in parts) > 60


def test_few_cells_are_one_part(folder: Path) -> None:
    drawn = {"annotate": 1, "sample_cell_types": 1.5}
    parts = parts_of(examples(folder, drawn), 1000, seed=0)
    assert [(part.held_out, part.tasks) for part in parts] == [(False, drawn), (True, drawn)]


def test_a_part_has_the_values_of_its_cells(folder: Path) -> None:
    planned = examples(folder, {"annotate": 1})
    whole = TrainingCells(planned.cells["a.h5ad"].data, folder, "upper")
    for part in parts_of(planned, 60, seed=0):
        cells = read_part(part, planned)
        np.testing.assert_array_equal(cells.matrix.toarray(), whole.matrix[part.places].toarray())
        np.testing.assert_array_equal(cells.totals, whole.totals[part.places])
        assert cells.names == [whole.names[place] for place in part.places]
        assert (cells.test == part.held_out).all()
        assert cells.label.tolist() == whole.label[part.places].tolist()


def test_names_of_draws() -> None:
    part = Part(number=7, file="a", held_out=False, tasks={"annotate": 1.5, "generate": 1})
    assert part.draws == [("train-000007-0000.parquet", 0), ("train-000007-0001.parquet", 1)]
    held_out = Part(number=8, file="a", held_out=True, tasks={"annotate": 1.5})
    assert held_out.draws == [("held_out-000008-0000.parquet", 0)]
