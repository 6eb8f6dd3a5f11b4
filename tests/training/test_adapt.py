"""Adaptation: a complete model directory, the same again, what is kept and what no longer counts; errors."""

from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import training_cells
from cells import checkpoint, fake
from training_runs import card, weights

import cell2sen as c2s
from cell2sen.training.network import loading

QUICK: dict[str, Any] = {"steps": 2, "settings": {"batch_size": 8, "gene_part": 4}, "progress": False}
CALIBRATION = {"annotate": {"temperature": 1.7, "n_cells": 300, "accuracy": 0.9, "certainty": [0.5, 0.9]}}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_cells.write(tmp_path_factory.mktemp("cells") / "cells.h5ad")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = checkpoint(
        tmp_path_factory.mktemp("start") / "start", calibration=CALIBRATION, scores=[1], failed={"x": "y"}
    )
    (path / "trained_on.json").write_text("{}", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def adapted(file: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> c2s.Model:
    return c2s.adapt(file, tmp_path_factory.mktemp("out") / "adapted", model=str(start), **QUICK)


def test_directory_is_a_model_with_a_record(adapted: c2s.Model, start: Path) -> None:
    record = adapted.metadata["adaptation"]
    assert (record["file"], record["n_cells"], record["steps"], record["minutes"]) == ("cells.h5ad", 90, 2, None)
    assert record["n_train"] + record["n_held_out"] == 90
    assert set(record["losses"]["before"]) == set(record["losses"]["after"]) == {"next_gene", "two_views"}
    assert adapted.metadata["started_from"]["name"] == "start"
    assert "cells.h5ad: 90, of which" in card(adapted)
    assert "| two views of one cell |" in card(adapted)
    assert str(start.parent) not in card(adapted) + json.dumps(dict(adapted.metadata))
    assert any(np.any(new.numpy() != old.numpy()) for new, old in zip(weights(adapted).values(),
                                                                  weights(start).values(), strict=True))  # fmt: skip


def test_what_no_longer_holds_is_not_claimed(adapted: c2s.Model, start: Path) -> None:
    assert adapted.metadata["calibration"] == {"annotate": {"temperature": 1.7, "n_cells": 0}}
    assert not {"scores", "failed"} & set(adapted.metadata)
    assert adapted.metadata["labels"] == json.loads((start / "cell2sen.json").read_text())["labels"]
    files = {path.name for path in Path(adapted.path).iterdir()}
    assert {"trained_on.json", "gene_part.npz", "README.md", "tokenizer.json", "training_log.json"} <= files
    assert "held_out.json" not in files  # the starting model has none
    annotated = c2s.tl.annotate(some_cells(), model=adapted, copy=True, progress=False)
    assert not annotated.uns["cell2sen"]["annotate"]["calibrated"]


def some_cells() -> anndata.AnnData:
    matrix, obs = training_cells.counts(60)
    return anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=training_cells.SYMBOLS))


def test_same_steps_and_seed_are_the_same_bytes(adapted: c2s.Model, file: Path, start: Path, tmp_path: Path) -> None:
    content, random = file.read_bytes(), torch.get_rng_state()
    again = c2s.adapt(file, tmp_path / "adapted", model=str(start), **QUICK)
    for path in sorted(Path(adapted.path).iterdir()):
        assert (Path(again.path) / path.name).read_bytes() == path.read_bytes(), path.name
    assert file.read_bytes() == content
    assert torch.equal(torch.get_rng_state(), random)


def test_embeddings_do_not_depend_on_the_order_of_the_cells(adapted: c2s.Model) -> None:
    adata = some_cells()
    rows = np.random.default_rng(0).permutation(adata.n_obs)
    c2s.tl.embed(adata, model=adapted, progress=False)
    shuffled = c2s.tl.embed(adata[rows].copy(), model=adapted, copy=True, progress=False)
    np.testing.assert_allclose(shuffled.obsm["X_cell2sen"], adata.obsm["X_cell2sen"][rows], rtol=1e-4, atol=1e-5)
    assert adata.obsm["X_cell2sen"].shape == (60, 32 + 4)


def test_large_models_are_trained_by_adapters(
    file: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "SMALL_NETWORK", 1)
    model = c2s.adapt(file, tmp_path / "out", model=str(start), **QUICK)
    changed = {
        name for name, weight in weights(model).items() if not np.array_equal(weight.float(), weights(start)[name])
    }
    assert any("query_key_value" in name for name in changed)
    assert not any("lora" in name for name in weights(model))


def test_responses_that_the_network_is_part_of_are_left_out(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = checkpoint(tmp_path / "start", responses={"IFN-beta": {"contexts": {}, "model_share": 0.5}})
    with caplog.at_level(logging.WARNING):
        out = c2s.adapt(file, tmp_path / "out", model=str(model), **QUICK)
    assert "was part of its 1 responses" in caplog.text
    assert "responses" not in out.metadata


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"minutes": 1, "steps": 1}, "either minutes or steps"),
        ({"minutes": 0, "steps": None}, "above 0"),
        ({"steps": 0}, "at least 1"),
        ({"settings": {"temprature": 1}}, "unknown keys"),
        ({"backend": "vllm"}, "'vllm' does not"),
        ({"backend": "openai"}, "'openai' does not"),
        ({"model": fake()}, "'fake' does not"),
        ({"quantize": "4bit"}, "quantised weights"),
        ({"model": "start of no model"}, "no model"),
    ],
)
def test_refused(file: Path, start: Path, tmp_path: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        c2s.adapt(file, tmp_path / "out", **{"model": str(start), **QUICK, **options})
    assert not (tmp_path / "out").exists()


def test_refused_size_folder_and_file(file: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        c2s.adapt(file, tmp_path / "out", model=str(start), **QUICK)
    monkeypatch.setattr(importlib.import_module("cell2sen.training.adapt"), "MAX_PARAMETERS", 10)
    with pytest.raises(ValueError, match="too many to adapt in minutes"):
        c2s.adapt(file, tmp_path / "new", model=str(start), **QUICK)
    with pytest.raises(FileNotFoundError, match="cell2sen fetch nobody/nothing"):
        c2s.adapt(file, tmp_path / "new", model="nobody/nothing", **QUICK)


def test_a_loaded_model_is_adapted_from_its_files(file: Path, start: Path, tmp_path: Path) -> None:
    from cell2sen.inference.session import load_model

    backend: Any = load_model({"model": str(start), "progress": False})
    before = {name: weight.clone() for name, weight in backend.network.state_dict().items()}
    c2s.adapt(file, tmp_path / "out", model=backend, **QUICK)
    assert all(np.array_equal(before[name], weight) for name, weight in backend.network.state_dict().items())
    assert backend.n_layers == tiny.LAYERS
