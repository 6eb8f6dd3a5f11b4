"""Corpus: built twice and killed once with the same bytes; sides, duplicates, columns, the card, a training on it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import anndata
import pyarrow.parquet as pq
import pytest
import tiny
import training_cells

from cell2sen import training
from cell2sen.engine.tokenization.tokenizer import load_tokens
from cell2sen.model import METADATA_FILE
from cell2sen.prompt import Prompt
from cell2sen.training.config.training_file import build as built
from cell2sen.training.corpus import build as module
from cell2sen.training.corpus.build import build_corpus
from cell2sen.training.corpus.settings import CorpusConfig

FILES: list[dict[str, Any]] = [
    {
        "file": "a.h5ad",
        "tasks": {"annotate": 2, "generate": 0.5, "perturb": 1},
        "cell_type": "cell_type",
        "perturbation": {"column": "condition", "context": ["cell_type"]},
        "split": {"by": "donor", "values": ["d4"]},
    },
    {"file": "b.h5ad", "tasks": ["annotate"], "cell_type": "cell_type"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, of which the second has 20 cells of the first, under other names and with other columns."""
    path = tmp_path_factory.mktemp("cells")
    training_cells.write(path / "a.h5ad", n=90)
    training_cells.write(path / "b.h5ad", n=60, seed=1)
    first, second = (anndata.read_h5ad(path / f"{name}.h5ad") for name in "ab")
    copies = first[:20, ::-1].copy()
    copies.obs_names = [f"copy{number}" for number in range(20)]
    anndata.concat([second[:, first.var_names[::-1]], copies]).write_h5ad(path / "b.h5ad")
    (path / "model").mkdir()
    tiny.save(path / "model")
    (path / "model" / METADATA_FILE).write_text(json.dumps({"dtype": "float32", "recipe": {"case": "upper"}}))
    return path


def settings(folder: Path, **changes: Any) -> CorpusConfig:
    values = {
        "files": FILES,
        "studies": {"b.h5ad": "study B"},
        "held_out": ["study B"],
        "model": str(folder / "model"),
        "lengths": {"annotate": 12, "generate": 8, "perturb": 8},
        "part_cells": 40,
        "context": 400,
    }
    config: CorpusConfig = built(CorpusConfig, values | changes)
    return config


def run(folder: Path, out: Path, **changes: Any) -> Path:
    return build_corpus(settings(folder, **changes), out, base=folder, progress=False)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def rows(out: Path, side: str) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob(f"{side}-*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_built_twice_and_killed_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = run(folder, tmp_path / "once")
    write, n_written = module.write_shard, []

    def killed(path: Path, *args: Any, **options: Any) -> None:
        if len(n_written) == 4:
            raise KeyboardInterrupt
        write(path, *args, **options)
        n_written.append(path)

    monkeypatch.setattr(module, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    times = {path.name: path.stat().st_mtime_ns for path in n_written}
    monkeypatch.setattr(module, "write_shard", write)
    again = run(folder, tmp_path / "again")
    assert {name: (again / name).stat().st_mtime_ns for name in times} == times  # not written anew
    assert contents(once) == contents(again)
    assert not list(tmp_path.glob("*.part"))
    other = run(folder, tmp_path / "other", seed=1)
    assert contents(other)["train-0000-00000-000.parquet"] != contents(once)["train-0000-00000-000.parquet"]


def test_an_unfinished_build_is_not_mixed_with_other_settings(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "write_shard", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"other settings or files \(settings.seed\)"):
        run(folder, tmp_path / "out", seed=1)


def test_sides_copies_and_columns(folder: Path, tmp_path: Path) -> None:
    out = run(folder, tmp_path / "out")
    first, second = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in "ab")
    train, held_out = rows(out, "train"), rows(out, "held_out")
    copied, ours = set(first.obs_names[:20]), set(first.obs_names)
    # The copies are in the held-out study: the first file loses these cells.
    used = {name for row in (*train, *held_out) for name in row["cells"]}
    assert used == (ours - copied) | set(second.obs_names)
    donor = first.obs["donor"]
    for row in train:
        assert row["data_set"] == "a"
        assert {donor[name] == "d4" for name in row["cells"]} == {False}
    for row in held_out:
        assert all(name not in ours or donor[name] == "d4" for name in row["cells"])
    counts = Counter(row["task"] for row in train)
    n_train = sum(donor[name] != "d4" for name in ours - copied)
    assert counts["annotate"] == 2 * n_train
    assert {row["data_set"] for row in held_out} == {"a", "study B"}
    model = load_tokens(str(folder / "model"), local_files_only=True)
    for row in train[:20]:
        assert row["completion"].startswith(" ")
        [whole] = model.encode([Prompt(segments=(row["prompt"],))], [row["completion"]])
        assert (row["prompt_tokens"], row["prompt_tokens"] + row["completion_tokens"]) == (whole.answer, len(whole))
        assert len(whole) <= 400
    types = dict(zip(first.obs_names, first.obs["cell_type"], strict=True))
    for row in train:
        if row["task"] == "annotate":
            [name] = row["cells"]
            assert row["completion"] == f" {types[name]}."


def test_without_the_removal_of_copies(folder: Path, tmp_path: Path) -> None:
    out = run(folder, tmp_path / "out", deduplicate=False, held_out=[])
    names = {name for row in rows(out, "train") + rows(out, "held_out") for name in row["cells"]}
    assert len(names) == 90 + 80


def test_the_card_counts_the_samples(folder: Path, tmp_path: Path) -> None:
    out = run(folder, tmp_path / "out")
    card = (out / "README.md").read_text(encoding="utf-8")
    train, held_out = rows(out, "train"), rows(out, "held_out")
    numbers = [
        value
        for side in (train, held_out)
        for value in (
            sum(row["task"] == "annotate" for row in side),
            sum(row["prompt_tokens"] + row["completion_tokens"] for row in side if row["task"] == "annotate"),
        )
    ]
    assert f"| annotate | {' | '.join(f'{number:,}' for number in numbers)} |" in card
    assert "| b.h5ad | study B | held out | 0 |" in card
    assert "| a.h5ad | a | split by donor, 0.1 held out | 20 |" in card
    assert str(folder) not in card


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"held_out": ["C"]}, "no study is called"),
        ({"studies": {"c.h5ad": "C"}}, "are none of the files"),
        ({"files": [FILES[0], FILES[0]]}, "each can be named once"),
        ({"part_cells": 0}, "must be positive"),
    ],
)
def test_settings_are_refused(folder: Path, changes: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        settings(folder, **changes)


@pytest.mark.slow
def test_a_training_on_a_corpus(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "corpus")
    config = training.from_mapping(
        {
            "model": {"start": str(folder / "model")},
            "data": {"corpus": "corpus"},
            "optimiser": {"max_steps": 4, "batch_size": 8},
            "compute": {"bf16": False},
        }
    )
    model = training.train(config, tmp_path / "model", base=tmp_path, progress=False)
    assert model.metadata["training"]["data"]["corpus"] == "corpus"
