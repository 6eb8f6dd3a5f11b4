"""Directory of a trained model: metadata, names of the split, hashes, files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from training_runs import FILE, LENGTHS, cells_of, config

from cell2sen import tasks
from cell2sen.model import METADATA_FILE, Model
from cell2sen.training.config.data import DataConfig, LabelNames, TrainingFile
from cell2sen.training.examples.pairs import Examples
from cell2sen.training.release import directory


class Saved:
    """A network or tokenizer that writes one file."""

    def __init__(self, file: str) -> None:
        self.file = file

    def save_pretrained(self, folder: Path) -> None:
        (folder / self.file).write_bytes(self.file.encode())


def examples_of(folder: Path, *names: str, **entry: Any) -> Examples:
    cells = cells_of(folder, **{**FILE, "tasks": names, **entry})
    return Examples(cells={"cells.h5ad": cells}, tasks={name: tasks.load(name) for name in names}, lengths=LENGTHS)


def test_split_is_stored_with_the_model(trained: Model) -> None:
    read = {
        name: json.loads((Path(trained.path) / name).read_text(encoding="utf-8"))["cells.h5ad"]
        for name in (directory.TRAINED_ON_FILE, directory.HELD_OUT_FILE)
    }
    held_out = read[directory.HELD_OUT_FILE]
    assert len(held_out) == 18
    assert set(held_out).isdisjoint(read[directory.TRAINED_ON_FILE])
    digest = hashlib.sha256("\n".join(sorted(held_out)).encode()).hexdigest()
    assert trained.metadata["split"]["cells.h5ad"]["sha256_of_held_out"] == digest


class TestMetadata:
    def test_counts_what_was_learned(self, folder: Path) -> None:
        metadata = directory.metadata_of(
            config(), directory.learned(examples_of(folder, "annotate", "perturb")), ("CD4",), None
        )
        cells = cells_of(folder, **FILE)
        assert metadata["genes"] == ["CD4"]
        assert sum(metadata["labels"].values()) == np.sum(~cells.test)
        assert set(metadata["perturbations"]) == {"IFN-beta", "IL-2"}, "controls are no perturbation"
        assert metadata["started_from"] is None

    def test_controls_count_where_perturbations_are_labels(self, folder: Path) -> None:
        examples = examples_of(folder, "identify")
        metadata = directory.metadata_of(config(), directory.learned(examples), None, None)
        assert set(metadata["perturbations"]) == {"control", "IFN-beta", "IL-2"}
        assert metadata["labels"] == {}

    def test_fine_tuned_models_keep_what_this_training_does_not_set(self, folder: Path) -> None:
        before = {
            "labels": {"neuron": 5},
            "perturbations": {"TNF": 3},
            "lengths": {"annotate": 7, "embed": 9},
            "spellings": {"neuron": ["nerve cell"]},
            "no_perturbation": "nothing",
            "organisms": ["Mus musculus"],
            "recipe": {"max_genes": 5},
        }
        start = Model(name="start", path="start", dtype="float32", metadata=before)
        metadata = directory.metadata_of(
            config(start="start"), directory.learned(examples_of(folder, "perturb")), None, start
        )
        assert metadata["labels"] == {"neuron": 5}
        assert set(metadata["perturbations"]) == {"TNF", "IFN-beta", "IL-2"}
        assert metadata["lengths"] == {**LENGTHS, "embed": 9}
        assert metadata["no_perturbation"] == "nothing"
        assert metadata["organisms"] == ["Homo sapiens", "Mus musculus"]
        assert metadata["started_from"]["labels"] == {"neuron": 5}
        assert start.recipe.max_genes is None or metadata["recipe"]["max_genes"] >= max(LENGTHS.values())


def test_spellings_name_labels_and_broader_labels() -> None:
    files = (TrainingFile(file="a"),)
    names = LabelNames(spellings={"B cell": ("B",)}, broader={"lymphocyte": ("B cell", "T cell")})
    data = DataConfig(files=files, names=names)
    assert directory.spellings(data) == {"B cell": ["B", "lymphocyte"], "T cell": ["lymphocyte"]}


def test_written_files(tmp_path: Path) -> None:
    cells: Any = {"a": SimpleNamespace(names=["x", "y", "z"], test=np.array([True, False, False]))}
    log = [{"loss": 1.0, "eval_loss": float("nan")}]
    directory.write(tmp_path, Saved("model.safetensors"), Saved("tokenizer.json"), {"genes": []}, cells, log)
    assert json.loads((tmp_path / directory.LOG_FILE).read_text()) == [{"loss": 1.0}]
    assert json.loads((tmp_path / directory.TRAINED_ON_FILE).read_text()) == {"a": ["y", "z"]}
    assert json.loads((tmp_path / directory.HELD_OUT_FILE).read_text()) == {"a": ["x"]}
    digest = hashlib.sha256(b"model.safetensors").hexdigest()[:16]
    assert json.loads((tmp_path / METADATA_FILE).read_text()) == {"genes": [], "weights_sha256": digest}
    changed = directory.update_metadata(tmp_path, {"scores": [1]}, remove=["genes", "nothing"])
    assert changed == {"scores": [1], "weights_sha256": digest} == json.loads((tmp_path / METADATA_FILE).read_text())
