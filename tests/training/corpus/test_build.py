"""Corpus: built twice and killed with the same bytes; sides, copies, columns, tasks of all kinds, a training on it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import training_cells

from cell2sen.data.output import complete_file
from cell2sen.engine.tokenization.tokenizer import load_tokens
from cell2sen.model import METADATA_FILE
from cell2sen.prompt import Prompt
from cell2sen.training.config.training_file import build as built
from cell2sen.training.corpus import build, card, plan, shards, shuffling
from cell2sen.training.corpus.build import build_corpus
from cell2sen.training.corpus.reading import RECORD
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
    first.obs["age"] = np.random.default_rng(0).integers(20, 80, 90)
    first.obs["tissue"] = np.where(first.obs["donor"] == "d1", "lung", "blood")
    first.write_h5ad(path / "a.h5ad")
    copies = first[:20, ::-1].copy()
    copies.obs_names = [f"copy{number}" for number in range(20)]
    anndata.concat([second[:, first.var_names[::-1]], copies]).write_h5ad(path / "b.h5ad")
    (path / "sets.gmt").write_text("A_SET\t-\tCD4\tCD8A\tLYZ\nB_SET\t-\tB2M\tFTL\nC_SET\t-\tFTH1\tFTL\n", "utf-8")
    (path / "study.txt").write_text("Cells of the blood\nof four donors.\n", encoding="utf-8")
    (path / "model").mkdir()
    tiny.save(path / "model", max_position_embeddings=1024)
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
        "shard_samples": 50,
        "max_tokens": 400,
    }
    config: CorpusConfig = built(CorpusConfig, values | changes)
    return config


def run(folder: Path, out: Path, **changes: Any) -> Path:
    return build_corpus(settings(folder, **changes), out, base=folder, progress=False)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def rows(out: Path, side: str) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob(f"{side}-*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def corpus(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(folder, tmp_path_factory.mktemp("corpus") / "out")


def test_built_twice_and_interrupted_once(
    corpus: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = shards.PartWriter._write, []

    def interrupted(self: Any, path: Path, *args: Any) -> None:
        if len(written) == 4:
            raise KeyboardInterrupt
        write(self, path, *args)
        written.append(path)

    monkeypatch.setattr(shards.PartWriter, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    times = {path: path.stat().st_mtime_ns for path in written}
    later = []

    def watched(self: Any, path: Path, *args: Any) -> None:
        later.append(path)
        write(self, path, *args)

    monkeypatch.setattr(shards.PartWriter, "_write", watched)
    again = run(folder, tmp_path / "again")
    assert len(times) == 4
    assert not set(times) & set(later)  # not written anew
    assert contents(corpus) == contents(again)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]
    other = run(folder, tmp_path / "other", seed=1)
    assert contents(other)["train-00000.parquet"] != contents(corpus)["train-00000.parquet"]


def test_interrupted_again_and_again(
    corpus: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count()

    @contextlib.contextmanager
    def stopping(path: Path) -> Iterator[Path]:
        with complete_file(path) as temporary:
            yield temporary
            if next(calls) % 7 == 5:
                raise KeyboardInterrupt  # with a file that is not complete
        if next(calls) % 7 == 4:
            raise KeyboardInterrupt

    for module in (build, plan, shards, shuffling, card):
        monkeypatch.setattr(module, "complete_file", stopping)
    n_stopped = 0
    while not (tmp_path / "out").exists():
        with contextlib.suppress(KeyboardInterrupt):
            run(folder, tmp_path / "out")
        n_stopped += not (tmp_path / "out").exists()
        assert n_stopped < 100
    assert n_stopped >= 4
    assert contents(tmp_path / "out") == contents(corpus)


#: Arguments: settings as JSON, output, base.
PROGRAM = """
import json, sys
from cell2sen.training.config.training_file import build
from cell2sen.training.corpus.build import build_corpus
from cell2sen.training.corpus.settings import CorpusConfig
print("begin", flush=True)
build_corpus(build(CorpusConfig, json.loads(sys.argv[1])), sys.argv[2], base=sys.argv[3], progress=False)
"""


def start(values: dict[str, Any], out: Path, base: Path) -> subprocess.Popen[str]:
    """A build in a process of its own, from the moment at which its modules are loaded."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(values), str(out), str(base)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "begin\n"
    return process


@pytest.mark.slow
def test_killed_at_random_moments(folder: Path, tmp_path: Path) -> None:
    values = {
        "files": [
            {**FILES[0], "tasks": {"annotate": 6, "perturb": 2, "tissue": 3}, "columns": {"tissue": "tissue"}}
            | {"texts": {"sample": "all"}},
            FILES[1],
        ],
        "gene_sets": [{"file": "sets.gmt"}],
        "weights": {"annotate": 2, "perturb": 1, "tissue": 0.1, "name_gene_set": 0.01, "list_gene_set": 0.01},
        "model": str(folder / "model"),
        "part_cells": 10,
        "shard_samples": 20,
    }
    began = time.monotonic()
    assert start(values, tmp_path / "once", folder).wait() == 0
    whole = time.monotonic() - began
    generator, killed = np.random.default_rng(0), 0
    for share in [0.3, 0.45, 0.6, *generator.uniform(0.4, 1.4, 20)]:
        process = start(values, tmp_path / "again", folder)
        try:
            assert process.wait(timeout=float(share) * whole) == 0
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            if (tmp_path / "again").exists():  # the corpus was complete, its process not yet at its end
                break
    assert killed >= 1
    assert contents(tmp_path / "once") == contents(tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "once"]


def test_an_unfinished_build_is_not_mixed_with_other_settings_or_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.h5ad", "b.h5ad", "study.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    files = [{**FILES[0], "texts": {"abstract": "study.txt"}}, FILES[1]]
    changes = {"files": files, "model": str(folder / "model")}
    monkeypatch.setattr(shards.PartWriter, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, tmp_path / "out", **changes)
    with pytest.raises(ValueError, match=r"other settings or files \(settings.seed\)"):
        run(tmp_path, tmp_path / "out", seed=1, **changes)
    (tmp_path / "study.txt").write_text("Another text.", encoding="utf-8")
    with pytest.raises(ValueError, match=r"other settings or files \(inputs.study.txt\)"):
        run(tmp_path, tmp_path / "out", **changes)
    (tmp_path / "study.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no text file"):
        run(tmp_path, tmp_path / "out", **changes)


def test_a_folder_that_exists_is_refused(corpus: Path, folder: Path) -> None:
    with pytest.raises(FileExistsError, match="exists already"):
        run(folder, corpus)


def test_a_full_disk_leaves_what_is_continued(
    corpus: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, n_written = pq.ParquetWriter.write_table, []

    def full(self: Any, *args: Any, **options: Any) -> None:
        n_written.append(1)
        if len(n_written) == 6:
            raise OSError(28, "No space left on device")
        write(self, *args, **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match=r"no space left for .*out.part, which keeps what is done"):
        run(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert contents(run(folder, tmp_path / "out")) == contents(corpus)


def test_sides_copies_and_columns(corpus: Path, folder: Path) -> None:
    first, second = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in "ab")
    train, held_out = rows(corpus, "train"), rows(corpus, "held_out")
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
    pairs = [row["cells"] for row in train if row["task"] == "perturb"]
    for control, perturbed in pairs:  # both cells are named
        assert types[control] == types[perturbed]
        assert (first.obs["condition"][control], first.obs["condition"][perturbed] == "control") == ("control", False)


def test_rows_are_in_random_order_over_all_shards(corpus: Path, folder: Path, tmp_path: Path) -> None:
    names = list(anndata.read_h5ad(folder / "a.h5ad").obs_names)
    train = [row for row in rows(corpus, "train") if row["task"] == "annotate"]
    assert len(list(corpus.glob("train-*.parquet"))) > 2
    place = np.array([names.index(row["cells"][0]) for row in train])
    assert abs(np.corrcoef(np.arange(len(place)), place)[0, 1]) < 0.3  # not the order of the file
    tasks = np.array([row["task"] == "annotate" for row in rows(corpus, "train")])
    assert abs(tasks[: len(tasks) // 2].mean() - tasks.mean()) < 0.15
    one = run(folder, tmp_path / "out", shard_samples=1000)  # the same rows in another number of shards
    key = [sorted((row["prompt"], row["completion"]) for row in rows(out, "train")) for out in (one, corpus)]
    assert key[0] == key[1]


def test_without_the_removal_of_copies(folder: Path, tmp_path: Path) -> None:
    out = run(folder, tmp_path / "out", deduplicate=False, held_out=[])
    names = {name for row in rows(out, "train") + rows(out, "held_out") for name in row["cells"]}
    assert len(names) == 90 + 80


def test_cells_that_another_file_holds_out_are_not_learned(folder: Path, tmp_path: Path) -> None:
    first = anndata.read_h5ad(folder / "a.h5ad")
    other = first[:, :20].copy()  # the same cells with fewer genes: no copies
    other.write_h5ad(tmp_path / "c.h5ad")
    first.write_h5ad(tmp_path / "a.h5ad")
    second = {"file": "c.h5ad", "cell_type": "cell_type", "split": {"test": 0, "exclude_held_out_of": ["a.h5ad"]}}
    changes = {"files": [FILES[0], second], "studies": {}, "held_out": [], "model": str(folder / "model")}
    out = run(tmp_path, tmp_path / "out", **changes)
    learned = {name for row in rows(out, "train") for name in row["cells"]}
    assert {"a", "c"} == {row["data_set"] for row in rows(out, "train")}
    assert not any(first.obs["donor"][name] == "d4" for name in learned)


def test_gene_sets_texts_context_numbers_and_samples(folder: Path, tmp_path: Path) -> None:
    tasks = ["sample_from_abstract", "interpret", "sample_cell_types", "tissue", "write_sample", "write_cell"]
    file = {
        "file": "a.h5ad",
        "tasks": [*tasks, "number:age", "label:condition", "sample_from_types"],
        "cell_type": "cell_type",
        "columns": {"sample": "donor", "tissue": "tissue"},
        "texts": {"abstract": "study.txt", "summary": "study.txt"},
        "split": {"test": 0.0},
    }
    out = run(
        folder,
        tmp_path / "out",
        files=[file],
        gene_sets=[{"file": "sets.gmt", "hold_out": ["B_SET"]}],
        context=["age", "tissue"],
        studies={},
        held_out=[],
        lengths=dict.fromkeys(tasks, 4),
        part_cells=30,
        max_tokens=1024,
    )
    train = rows(out, "train")
    obs = anndata.read_h5ad(folder / "a.h5ad").obs
    by_task: dict[str, list[dict[str, Any]]] = {}
    for row in train:
        by_task.setdefault(row["task"], []).append(row)
    assert set(by_task) == {*file["tasks"], "name_gene_set", "list_gene_set"}
    text = "Cells of the blood of four donors."
    for row in by_task["interpret"]:
        assert row["completion"] == f" {text}"
        assert len(set(obs.loc[row["cells"], "donor"])) == 1
        assert 5 <= len(row["cells"]) <= 20
    for row in by_task["sample_from_abstract"]:
        assert text in row["prompt"]
        assert row["completion"].count("Cell ") == len(row["cells"])
    for row in by_task["sample_from_types"]:
        types = obs.loc[row["cells"], "cell_type"]
        assert all(f"Cell {number + 1}: {name}." in row["prompt"] for number, name in enumerate(types))
    # Donors are whole: each cell of a donor with 5 cells or more is in a sample.
    n_cells = obs["donor"].value_counts()
    assert {name for row in by_task["sample_cell_types"] for name in row["cells"]} == set(
        obs.index[obs["donor"].isin(n_cells.index[n_cells >= 5])]
    )
    for row in by_task["number:age"]:
        [name] = row["cells"]
        assert "age:" not in row["prompt"]  # the answer is not in the prompt
        assert f"tissue: {obs['tissue'][name]}" in row["prompt"]
    bins = json.loads((out / RECORD).read_text(encoding="utf-8"))["learned"]["columns"]["number_columns"]["age"][
        "values"
    ]
    assert {float(row["completion"].strip(" .")) for row in by_task["number:age"]} <= set(bins)
    assert Counter(row["completion"] for row in by_task["name_gene_set"]) == {" A SET.": 1, " C SET.": 1}
    assert [row["completion"] for row in rows(out, "held_out") if row["task"] == "list_gene_set"] == [" B2M FTL."]


def test_weights_are_the_shares_of_the_samples(folder: Path, tmp_path: Path) -> None:
    out = run(folder, tmp_path / "out", weights={"annotate": 2, "generate": 0.5, "perturb": 1})
    counts = Counter(row["task"] for row in rows(out, "train"))
    drawn = Counter(row["task"] for row in rows(run(folder, tmp_path / "all"), "train"))
    scarcest = min(drawn, key=lambda task: drawn[task] / {"annotate": 2, "generate": 0.5, "perturb": 1}[task])
    assert counts[scarcest] == drawn[scarcest]
    assert counts["annotate"] == pytest.approx(4 * counts["generate"], abs=4)
    assert counts["perturb"] == pytest.approx(2 * counts["generate"], abs=2)
    every = {(row["prompt"], row["completion"]) for row in rows(tmp_path / "all", "train")}
    chosen = [(row["prompt"], row["completion"]) for row in rows(out, "train")]
    assert set(chosen) <= every
    assert rows(out, "held_out") == rows(tmp_path / "all", "held_out")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"All samples of {scarcest} are used" in card
    assert "| annotate | 2 | 57.1% |" in card


def test_the_card_counts_the_samples(corpus: Path, folder: Path) -> None:
    card = (corpus / "README.md").read_text(encoding="utf-8")
    train, held_out = rows(corpus, "train"), rows(corpus, "held_out")
    n, tokens = ([sum(row["task"] == "annotate" for row in side) for side in (train, held_out)], [])
    for side in (train, held_out):
        tokens.append([row["prompt_tokens"] + row["completion_tokens"] for row in side])
    of_task = [
        sum(count for count, row in zip(counts, side, strict=True) if row["task"] == "annotate")
        for counts, side in zip(tokens, (train, held_out), strict=True)
    ]
    shares = f"{n[0] / len(train):.1%}", f"{of_task[0] / sum(tokens[0]):.1%}"
    assert f"| annotate | {n[0]:,} | {shares[0]} | {of_task[0]:,} | {shares[1]} | {n[1]:,} | {of_task[1]:,} |" in card
    assert "| b.h5ad | study B | held out | 0 |" in card
    assert "| a.h5ad | a | split by donor, d4 held out | 20 |" in card
    assert str(folder) not in card
    assert str(folder) not in (corpus / RECORD).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tasks": ["tissue"]}, "need the obs column of 'tissue'"),
        ({"tasks": ["label:sex"]}, "no column 'sex'"),
        ({"matrix": {"where": {"donor": "d9"}}}, "no cell of a.h5ad has the values"),
    ],
)
def test_files_without_what_tasks_need_are_refused_at_once(
    folder: Path, tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    with pytest.raises((ValueError, KeyError), match=match):
        run(folder, tmp_path / "out", files=[FILES[0] | changes], studies={}, held_out=[])
    assert not (tmp_path / "out").exists()
