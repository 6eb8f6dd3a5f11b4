"""Recipes: training files that can be read, and the script that averages trainings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata
import pytest
import torch
import training_cells
import yaml
from safetensors.torch import load_file

from cell2sen import tl, training
from cell2sen.data.splits import held_out_cells
from cell2sen.inference.responses.known_responses import load
from cell2sen.model import resolve

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "recipes" / "average.py"
SHAPE: dict[str, Any] = {"hidden_size": 16, "layers": 1, "heads": 2, "context": 128, "tokenizer": {"min_cells": 1}}
FILE: dict[str, Any] = {
    "file": "cells.h5ad",
    "tasks": ["annotate", "perturb"],
    "cell_type": "cell_type",
    "perturbation": {"column": "condition", "context": ["cell_type"], "no_perturbation": "nothing"},
    "split": {"test": 0.2},
}
SETTINGS: dict[str, Any] = {
    "model": {"from_scratch": SHAPE},
    "data": {"files": [FILE], "lengths": {"annotate": 20, "perturb": 10}},
    "optimiser": {"max_steps": 2},
    "compute": {"bf16": False},
    "checkpoints": {"eval_steps": 2},
    "card": {"score_cells": 20},
}


def average(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1] / "src")}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_average_of_two_seeds(tmp_path: Path) -> None:
    training_cells.write(tmp_path / "cells.h5ad", n=200)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    start = training.train(training.read_config(recipe), tmp_path / "start", base=tmp_path, progress=False)
    seeds = []
    for seed in (0, 1):
        settings = training.from_mapping({**SETTINGS, "model": {"start": start.path}, "seed": seed})
        seeds.append(Path(training.train(settings, tmp_path / f"seed-{seed}", base=tmp_path, progress=False).path))
    done = average(recipe, tmp_path / "out", *seeds, "--data-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    averaged, *parts = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", *seeds))
    for name, tensor in averaged.items():
        torch.testing.assert_close(
            tensor.double(), (parts[0][name].double() + parts[1][name].double()) / 2, atol=4e-3, rtol=0
        )
        assert tensor.dtype == parts[0][name].dtype
    model = resolve(tmp_path / "out")
    assert model.metadata["averaged"] == [resolve(seed).metadata["weights_sha256"] for seed in seeds]
    assert model.metadata["weights_sha256"] not in model.metadata["averaged"]
    assert set(load(model).responses) == {"IFN-beta", "IL-2"} == set(model.metadata["responses"])
    assert "temperature" in model.metadata["calibration"]["annotate"]
    assert {score["task"] for score in model.metadata["scores"]} == {"annotate", "perturb"}
    again = average(recipe, tmp_path / "out", *seeds, "--data-dir", tmp_path)
    assert "exists already" in again.stderr
    larger = training.from_mapping({**SETTINGS, "model": {"from_scratch": {**SHAPE, "hidden_size": 32}}})
    other = training.train(larger, tmp_path / "other", base=tmp_path, progress=False)
    differing = average(recipe, tmp_path / "no", seeds[0], other.path, "--data-dir", tmp_path)
    assert "do not have the same tensors" in differing.stderr
    assert not (tmp_path / "no").exists()


def test_both_stages_of_the_embedded_model_hold_out_the_same_cells() -> None:
    names = ("nano-first", "nano", "nano-base")
    first, later, untreated = (training.read_config(SCRIPT.parent / f"{name}.yaml") for name in names)
    assert first.model.from_scratch is not None
    splits = [{file.file: file.split for file in config.data.files} for config in (first, later, untreated)]
    assert splits[0] == splits[1]
    assert splits[2].items() <= splits[1].items()
    # benchmarks/left_out.py needs a first stage without treated cells, and these settings of the second.
    assert (later.model.change_vectors, later.model.start_share, later.data.lengths["perturb"]) == (8, 0, 400)
    [kang] = [file for file in untreated.data.files if file.file.startswith("kang_ifnb")]
    assert kang.matrix.where == {"condition": kang.control}


def test_every_recipe_is_a_training_file() -> None:
    recipes = sorted(SCRIPT.parent.glob("*.yaml"))
    assert len(recipes) == 5
    for recipe in recipes:
        assert training.read_config(recipe).data.files


def test_corpus_of_texts(tmp_path: Path) -> None:
    """Texts of a table of terms and of gene sets; a model learns from them and answers."""
    training_cells.write(tmp_path / "cells.h5ad", n=120)
    rows = ["label,definition,synonyms", "B cell,A lymphocyte of B lineage. It makes antibodies.,B lymphocyte"]
    rows += ["t-cell,A lymphocyte of T lineage.,T cell|T lymphocyte", "neuron,A cell of the brain.,"]
    (tmp_path / "terms.csv").write_text("\n".join(rows), encoding="utf-8")
    symbols = training_cells.SYMBOLS
    sets = [("OF_B", symbols[:8]), ("OF_T", symbols[8:16]), ("OF_NONE", symbols[40:48]), ("OF_FEW", symbols[:2])]
    lines = ["\t".join([name, "", *genes]) for name, genes in sets]
    (tmp_path / "sets.gmt").write_text("\n".join(lines), encoding="utf-8")
    script = SCRIPT.with_name("text.py")
    command = [sys.executable, str(script), str(tmp_path / "cells.h5ad"), str(tmp_path / "corpus")]
    command += ["--label", "cell_type", "--ontology", str(tmp_path / "terms.csv"), "--test", "0.3", "--seed", "2"]
    command += ["--sample", "donor", "--metadata", "condition", "--gene-sets", str(tmp_path / "sets.gmt")]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1] / "src")}
    before = (tmp_path / "cells.h5ad").read_bytes()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not in the ontology: ['monocyte']" in done.stderr
    assert (tmp_path / "cells.h5ad").read_bytes() == before
    obs = anndata.read_h5ad(tmp_path / "corpus" / "text.h5ad").obs
    assert obs["part"].eq("held out").tolist() == held_out_cells(obs, by="cell", share=0.3, seed=2).tolist()
    assert obs["caption"].isna().equals(obs["cell_type"].eq("monocyte"))
    b_cells = obs[(obs["cell_type"] == "B cell") & (obs["condition"] == "control")]
    [caption] = set(b_cells["caption"])
    start = "Cells of the type B cell (condition control). A lymphocyte of B lineage. They express "
    assert caption.startswith(start)
    assert set(caption.removeprefix(start).removesuffix(".").split(", ")) <= set(symbols[:8])
    assert set(b_cells["answer_3"]) == {"They express b."}  # "of" is the first word of all names
    assert set(b_cells["question_0"]) == {"What type are these cells?"}
    treated = obs[(obs["cell_type"] == "T cell") & (obs["condition"] == "IFN-beta")]
    assert set(treated["type"]) == {"t-cell"}
    assert set(treated["question_4"]) == {"What is the condition of these cells?"}
    assert set(treated["answer_4"]) == {"Their condition is IFN-beta."}
    assert (obs.groupby("donor", observed=True)["summary"].nunique() == 1).all()
    assert all("Its most frequent types are " in text for text in obs["summary"].dropna())
    values = yaml.safe_load((script.with_suffix(".yaml")).read_text(encoding="utf-8"))
    assert {file["split"]["by"] for file in values["data"]["files"]} == {"part"}
    values |= {"model": {"from_scratch": {**SHAPE, "context": 512}}, "optimiser": {"max_steps": 2}}
    values |= {"compute": {"bf16": False}, "card": {"score_cells": 0}}
    model = training.train(training.from_mapping(values), tmp_path / "model", base=tmp_path / "corpus", progress=False)
    assert {"caption", "ask", "interpret"} <= set(model.metadata["templates"])
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad")
    table = tl.ask(adata, "Which?", n_cells=3, model=model.path, max_new_tokens=4, progress=False)
    assert len(table) == 1
