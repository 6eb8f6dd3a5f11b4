"""Training files: plain values to a configuration; errors on unknown and former keys."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from cell2sen import training
from cell2sen.data.names.text import as_text
from cell2sen.training.config import training_file
from cell2sen.training.config.data import LabelColumn, PerturbationColumn
from cell2sen.training.config.settings import TrainConfig

MINIMAL: dict[str, Any] = {"model": {"from_scratch": {}}, "data": {"files": [{"file": "a"}]}}


def file(**entry: Any) -> dict[str, Any]:
    return {"data": {"files": [{"file": "a", **entry}]}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": {}}, r"the training file has unknown keys \['optimizer'\]; available: .*'optimiser'"),
        ({"optimiser": {"rate": 1}}, r"optimiser has unknown keys \['rate'\]; available: .*'learning_rate'"),
        ({"model": {"lora": {"rank": 2}}}, r"model.lora has unknown keys \['rank'\]; available: .*'r'"),
        (file(celltype="x"), r"data.files has unknown keys \['celltype'\]; available: .*'cell_type'"),
        (file(split={"share": 1}), r"data.files.split has unknown keys \['share'\]; available: .*'test'"),
        ({"data": {"files": [{}]}}, r"data.files lacks the keys \['file'\], found \[\]"),
        ({"data": {"files": []}}, "no data: name the files"),
        ({"data": {}}, "no data: name the files"),
        ({"data": None}, "no data: name the files"),
        ({"optimiser": {"batch_size": "many"}}, "optimiser.batch_size must be a number, found 'many'"),
        ({"optimiser": {"batch_size": 2.5}}, "optimiser.batch_size must be a whole number, found 2.5"),
        ({"optimiser": 3}, "optimiser must hold keys and values, found 3; available: .*'batch_size'"),
        (file(tasks=3), "data.files.tasks must hold keys and values, found 3"),
    ],
)  # fmt: skip
def test_mistakes_list_the_available_keys(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training.from_mapping(MINIMAL | values)


def test_mistakes_in_one_of_several_files_name_it() -> None:
    good = {"file": "a.h5ad", "cell_type": "kind"}
    for bad, message in (
        ({"celltype": "x"}, r"data.files has unknown keys \['celltype'\]; .*\(file: b.h5ad\)"),
        ({"split": {"test": "some"}}, r"data.files.split.test must be a number, found 'some' \(file: b.h5ad\)"),
        ({"matrix": {"scale": "cp1k"}}, r"matrix.scale must be one of .*\(file: b.h5ad\)"),
    ):
        with pytest.raises(ValueError, match=message):
            training.from_mapping(MINIMAL | {"data": {"files": [good, {"file": "b.h5ad", **bad}]}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 1e-3}, "learning_rate is now optimiser.learning_rate"),
        ({"max_steps": 3, "lora": {}}, "max_steps is now optimiser.max_steps; lora is now model.lora"),
        ({"keep": 0.1}, "keep is now model.start_share"),
        ({"labels": {}}, "labels is now data.names.spellings"),
        ({"score_cells": 0, "names": False}, "score_cells is now card.score_cells; names is now card.names"),
        ({"model": "nano"}, "model is now model.start: write model: {start: …}"),
        ({"data": [{"file": "a"}]}, "data is now data.files: write data: {files: …}"),
        ({"card": "text"}, "card is now card.text: write card: {text: …}"),
        (
            {"model": {"from_scratch": {"min_cells": 3}}},
            "model.from_scratch.min_cells is now model.from_scratch.tokenizer.min_cells",
        ),
        (
            {"model": {"from_scratch": {"tokenizer": "bpe"}}},
            "model.from_scratch.tokenizer is now model.from_scratch.tokenizer.kind: write tokenizer: {kind: …}",
        ),
        (file(control="ctrl"), "data.files.control is now data.files.perturbation.control"),
        (file(labels={"a": "b"}), "data.files.labels is now data.files.cell_type.names"),
        (file(draws={"annotate": 2}), "data.files.draws is now data.files.tasks, as {TASK: DRAWS}"),
        ({"grpo": {"gene_sets": "x.gmt"}}, "grpo.gene_sets is now grpo.genes.gmt"),
        ({"grpo": {"answers": 8}}, "grpo.answers is now grpo.answers.per_prompt: write answers: {per_prompt: …}"),
    ],
)
def test_former_keys_are_errors_that_name_the_new_place(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        training.from_mapping(MINIMAL | values)


def test_every_former_key_has_a_place_that_exists() -> None:
    for kind, moved in training_file.MOVED.items():
        for former, place in moved.items():
            part: Any = kind
            for key in place.partition(",")[0].split("."):
                hints = training_file.typing.get_type_hints(part)
                assert key in hints, f"{former} → {place}"
                part = next(iter(training_file.typing.get_args(hints[key])), hints[key])


def test_no_part_has_more_than_eight_keys() -> None:
    parts, seen = [TrainConfig], set()
    while parts:
        kind = parts.pop()
        seen.add(kind)
        hints = training_file.typing.get_type_hints(kind)
        assert len(dataclasses.fields(kind)) <= 8, kind
        for hint in hints.values():
            inner = [*training_file.typing.get_args(hint), hint]
            parts += [part for part in inner if dataclasses.is_dataclass(part) and part not in seen]
    assert len(seen) > 15


def test_numbers_that_yaml_reads_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "model: {start: nano, lora: {r: 8}}\noptimiser: {learning_rate: 1e-4}\n"
        "data: {files: [{file: a.h5ad, tasks: annotate}]}\n"
    )
    read = training.read_config(path)
    assert read.model.lora is not None
    assert (read.optimiser.learning_rate, read.model.lora.r) == (1e-4, 8)
    assert read.data.files[0].tasks == {"annotate": 1}
    path.write_text("- a\n")
    with pytest.raises(ValueError, match="is not a training file"):
        training.read_config(path)


def test_short_forms() -> None:
    short = file(
        cell_type="type", perturbation="drug", tasks=["annotate", "perturb"], split={"values": "d1", "by": "x"}
    )
    [read] = training.from_mapping(MINIMAL | short).data.files
    assert read.cell_type == LabelColumn(column="type")
    assert read.perturbation == PerturbationColumn(column="drug")
    assert read.tasks == {"annotate": 1.0, "perturb": 1.0}
    assert read.split.values == ("d1",)
    read_model = training.from_mapping({**MINIMAL, "model": {"start": "x", "lora": True}}).model
    assert read_model.lora is not None
    assert read_model.lora.r == 16


def test_plain_values_are_read_again() -> None:
    entry = file(
        cell_type={"column": "type", "names": {"a": "b"}}, matrix={"where": {"batch": 1}}, tasks={"annotate": 2.5}
    )
    config = training.from_mapping({**MINIMAL, **entry, "grpo": None, "seed": 7})
    stored = json.loads(json.dumps(training_file.plain(config)))
    assert training.from_mapping(stored) == config
    flat = training_file.flat(stored)
    assert flat["seed"] == 7
    assert flat["model.from_scratch.tokenizer.kind"] == "genes"
    assert config.data.files[0].matrix.where == {"batch": "1"}


def test_errors_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "training.yaml"
    file.write_text("model: {from_scratch: {}}\noptimizer: {}\ndata: {files: [{file: a}]}", encoding="utf-8-sig")
    with pytest.raises(ValueError, match=r"training\.yaml: the training file has unknown keys \['optimizer'\]"):
        training.read_config(file)
    file.write_text("model: {from_scratch: [}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"training\.yaml: this is no YAML: .*line 1"):
        training.read_config(file)


def test_null_and_byte_order_marks(tmp_path: Path) -> None:
    file = tmp_path / "training.yaml"
    entry = "{file: a, cell_type: {column: x, names: {doublet: null}}, perturbation: {column: y, control: null}}"
    file.write_text(f"model: {{from_scratch: {{}}}}\ndata:\n  files: [{entry}]\n", encoding="utf-16")
    [data] = training.read_config(file).data.files
    assert data.control == "control"
    assert data.cell_type is not None
    assert as_text(data.cell_type.names["doublet"]) is None
