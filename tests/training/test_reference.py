"""Fine-tuning on a reference: what is learned, over which genes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import pytest
from cells import GENES
from typed_cells import TYPES, typed

import cell2sen as c2s
from cell2sen import training
from cell2sen.training import reference as module

QUICK: dict[str, Any] = {"optimiser": {"max_steps": 2}}


def test_training_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str) -> None:
    written: dict[str, Any] = {}

    def train(config: Any, out: Path, *, base: str, progress: bool) -> Any:
        written.update(config=config, cells=anndata.read_h5ad(Path(base) / "reference.h5ad"))

    monkeypatch.setattr(module, "train", train)
    query, reference = typed(5, seed=1, genes=GENES[4:]), typed(60, seed=2)
    labels = reference.obs["cell_type"].astype(object).copy()
    labels.iloc[:3] = [None, "unknown", "alone"]
    reference.obs["cell_type"] = labels
    training.fine_tune(
        query, reference, "cell_type", tmp_path / "m", held_out_by="donor", model=model, settings=QUICK, progress=False
    )
    cells, config = written["cells"], written["config"]
    assert cells.var_names.tolist() == sorted(GENES[4:])
    assert cells.obs_names.tolist() == reference.obs_names[3:].tolist()
    assert cells.obs["cell_type"].tolist() == labels.tolist()[3:]
    file = config.data.files[0]
    assert file.split.by == "held_out_by"
    assert cells.obs["held_out_by"].tolist() == reference.obs["donor"].tolist()[3:]
    assert file.tasks == {"annotate": 20}
    assert config.optimiser.max_steps == 2
    assert config.model.start == model


@pytest.mark.slow
def test_a_trained_model_labels_the_query(tmp_path: Path, model: str) -> None:
    query, reference = typed(5, seed=1), typed(60, seed=2)
    options: dict[str, Any] = {"model": model, "settings": QUICK, "progress": False}
    training.fine_tune(query, reference, "cell_type", tmp_path / "m", **options)
    labels = json.loads((tmp_path / "m" / "cell2sen.json").read_text())["labels"]
    assert set(labels) >= set(TYPES)
    c2s.tl.transfer(
        query, reference, "cell_type", model=tmp_path / "m", classifier="model", majority_voting=False, progress=False
    )
    assert set(query.obs["transferred_cell_type"].astype(str)) <= set(TYPES)
    assert query.uns["cell2sen"]["transfer"]["classifier"] == "model"
    with pytest.raises(FileExistsError, match="choose another folder"):
        training.fine_tune(query, reference, "cell_type", tmp_path / "m", **options)
