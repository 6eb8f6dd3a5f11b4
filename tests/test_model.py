"""Model: known checkpoints, local directories and their metadata."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from cell2sen.model import EMBEDDED, KNOWN, METADATA_FILE, Model, resolve
from cell2sen.sentences.rank_fit import RankFit
from cell2sen.sentences.ranking import Recipe


def checkpoint(folder: Path, **metadata) -> Path:
    folder.mkdir()
    (folder / METADATA_FILE).write_text(json.dumps(metadata), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", sorted(set(KNOWN) - {EMBEDDED}))
def test_published_checkpoints(name):
    model = resolve(name)
    assert model == KNOWN[name]
    assert model.name == name
    assert model.path.startswith("vandijklab/")
    assert model.recipe.case == "upper"
    assert model.wording == "cell2sentence"
    assert model.licence.startswith("CC-BY")
    assert not model.is_local
    assert (model.stop == ("<ctrl100>",)) == name.startswith("gemma")
    # The hub id names the same checkpoint.
    assert resolve(model.path) == model


def test_a_downloaded_copy_is_the_checkpoint(tmp_path):
    (tmp_path / "C2S-Scale-Gemma-2-2B").mkdir()
    copy = resolve(tmp_path / "C2S-Scale-Gemma-2-2B")
    published = KNOWN["gemma-2-2b"]
    assert (copy.recipe, copy.stop, copy.wording, copy.name) == (
        published.recipe,
        published.stop,
        published.wording,
        published.name,
    )
    assert copy.path == str(tmp_path / "C2S-Scale-Gemma-2-2B")


def test_other_hub_ids():
    model = resolve("someone/else")
    assert (model.name, model.path, model.recipe, model.wording) == (
        "someone/else",
        "someone/else",
        Recipe(),
        "cell2sen",
    )


@pytest.mark.parametrize("name", ["nana", "./nowhere", "/no/where", "a/b/c", ""])
def test_no_such_model(name):
    with pytest.raises(ValueError, match=r"no model.*no directory and no hub id.*'gemma-2-2b'"):
        resolve(name)


def test_metadata_beside_the_weights(tmp_path):
    fit = {"slope": -0.7, "intercept": 2.5, "r_squared": 0.8}
    folder = checkpoint(
        tmp_path / "mine", recipe={"max_genes": 300, "case": "upper"}, fit=fit, genes=["CD4", "LYZ"], stop=["<end>"],
        templates={"annotate": [{"prompt": "{genes}:", "answer": " {cell_type}."}]}, dtype="float32",
    )  # fmt: skip
    for model in (resolve(folder), resolve(str(folder)), resolve(Model(name="x", path=str(folder)))):
        assert model.recipe == Recipe(max_genes=300, case="upper")
        assert model.fit == RankFit(**fit)
        assert model.genes == ("CD4", "LYZ")
        assert model.stop == ("<end>",)
        assert model.wording == "checkpoint"
        assert model.resolved_dtype == "float32"
        assert model.is_local
        assert model.provenance()["path"] == "mine"
        assert pickle.loads(pickle.dumps(model)) == model  # noqa: S301
        hash(model)


def test_a_directory_without_metadata(tmp_path):
    model = resolve(tmp_path)
    assert (model.recipe, model.fit, model.genes, model.resolved_dtype) == (Recipe(), None, None, "bfloat16")


def test_changes():
    model = resolve("gemma-2-2b", dtype="float32", revision=None, recipe=Recipe(max_genes=7))
    assert (model.resolved_dtype, model.revision, model.recipe.max_genes) == ("float32", None, 7)
    assert KNOWN["gemma-2-2b"].dtype == "auto"
    assert resolve(model) == model


def test_broken_metadata(tmp_path):
    folder = checkpoint(tmp_path / "a", recipe={"ties": "none"})
    with pytest.raises(ValueError, match=r"cell2sen.json is not metadata.*ties must be one of"):
        resolve(folder)
    (folder / METADATA_FILE).write_text("{")
    with pytest.raises(ValueError, match=r"cell2sen.json is not metadata"):
        resolve(folder)


def test_provenance_is_plain_values():
    for model in KNOWN.values():
        assert all(isinstance(value, str) for value in model.provenance().values())
        assert all(isinstance(value, str | int) for value in model.recipe.provenance().values())
