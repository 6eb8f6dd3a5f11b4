"""Plans: what they pin, and what they refuse before work."""

from __future__ import annotations

import numpy as np
import pytest
from cells import cells

from cell2sen.atlas.plan_file import Plan


def test_a_plan_pins_what_changes_numbers(planned, files) -> None:
    folder, plan = planned("embed", batch_size=3)
    assert [(each.name, each.cells) for each in plan.inputs] == [("in0.h5ad", 13), ("in1.zarr", 7)]
    assert plan.shards == ((0, 0, 5), (0, 5, 10), (0, 10, 13), (1, 0, 5), (1, 5, 7))
    assert plan.batch_size == 3
    assert plan.model["dtype"] == "float32"
    assert len(plan.model["sha256"]) == 64
    assert plan.inputs[0].scale is not None
    assert plan.inputs[0].scale["kind"] == "counts"
    assert plan.inputs[0].organisms == ("Homo sapiens",)
    assert Plan.read(folder).id == plan.id


@pytest.mark.parametrize(
    ("verb", "settings", "error", "message"),
    [
        ("embedd", {}, ValueError, "no verb 'embedd' for a run in shards; available"),
        ("corpus", {}, ValueError, "a writer of its own"),
        ("embed", {"attention_for": ["a"]}, TypeError, "does not take attention_for=: it is for a few cells"),
        ("embed", {"adapt": 5}, TypeError, "does not take adapt=: all shards need one model"),
        ("embed", {"device": "cpu"}, TypeError, "run chooses the device"),
        ("embed", {"poolings": "last"}, TypeError, r"unknown arguments \['poolings'\] of embed"),
        ("embed", {"pooling": "most"}, ValueError, "no pooling 'most'"),
        ("embed", {"context": "tissue"}, ValueError, "obs has no column 'tissue'"),
        ("embed", {"layer": "spliced"}, ValueError, "no layers/spliced; available: X"),
        ("annotate", {"labels": ["B cell"]}, ValueError, "at least two"),
        ("annotate", {"majority_voting": True}, TypeError, "depends on all cells of a file"),
        ("annotate", {"threshold": 2}, ValueError, "threshold must be a probability"),
        ("perturb", {"perturbation": "IL-99"}, ValueError, "IL-99"),
        ("perturb", {"perturbation_column": "drug"}, ValueError, "no column 'drug' for perturbation_column=; av"),
        ("perturb", {"perturbation": "IFN-beta", "output": "reads"}, ValueError, "no output 'reads'"),
        ("generate", {"inputs": (), "cell_type": "B cell", "output": "counts"}, ValueError, "needs the file of meas"),
        ("transfer", {"label": "a"}, TypeError, "transfer needs reference="),
        ("generate", {"cell_type": "B cell"}, ValueError, "generate reads no cells"),
        ("embed", {"model": "gemma-3"}, ValueError, "no model 'gemma-3'"),
    ],
)
def test_refused(planned, tmp_path, verb, settings, error, message) -> None:
    with pytest.raises(error, match=message):
        planned(verb, **settings)
    assert not (tmp_path / "run").exists()


def test_bad_files_are_all_listed_or_left_out(planned, files, tmp_path) -> None:
    (tmp_path / "no.h5ad").write_text("nothing")
    negative = cells(3)
    negative.X.data[0] = -1
    negative.write_h5ad(tmp_path / "negative.h5ad")
    inputs = [files[0], tmp_path / "no.h5ad", tmp_path / "negative.h5ad"]
    with pytest.raises(ValueError, match=r"2 of 3 files cannot be used.*\n.*no.h5ad.*\n.*negative.h5ad: .*negative"):
        planned("embed", inputs=inputs)
    _, plan = planned("embed", inputs=inputs, skip_bad=True)
    assert set(plan.left_out) == {"no.h5ad", "negative.h5ad"}
    assert len(plan.inputs) == 1


def test_counts_need_counts(planned, files, tmp_path) -> None:
    logarithms = cells(30)
    logarithms.X = logarithms.X.multiply(1e4 / logarithms.X.sum(axis=1)).log1p().tocsr().astype(np.float32)
    logarithms.write_h5ad(tmp_path / "logarithms.h5ad")
    for verb, settings in (
        ("perturb", {"perturbation": "IFN-beta", "inputs": tmp_path / "logarithms.h5ad"}),
        ("generate", {"inputs": (), "cell_type": "B cell", "genes": tmp_path / "logarithms.h5ad"}),
    ):
        with pytest.raises(ValueError, match=r"output='counts' needs .* with their counts, found"):
            planned(verb, output="counts", **settings)


def test_a_folder_with_other_files_is_refused(planned, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="is not empty and has no plan"):
        planned("embed")


def test_the_scale_is_that_of_the_whole_file(planned, tmp_path) -> None:
    """Logarithms of few cells alone would be taken for those of another total."""
    adata = cells(12)
    sums = np.asarray(adata.X.sum(axis=1))
    adata.X = adata.X.multiply(1e4 / sums).log1p().tocsr().astype(np.float32)
    adata.write_h5ad(tmp_path / "logs.h5ad")
    _, plan = planned("embed", inputs=tmp_path / "logs.h5ad", shard_cells=1)
    assert plan.inputs[0].scale is not None
    assert plan.inputs[0].scale["total"] == 1e4


def test_two_files_of_one_name_get_their_folders(planned, tmp_path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        cells(3).write_h5ad(tmp_path / name / "cells.h5ad")
    inputs = [tmp_path / name / "cells.h5ad" for name in ("a", "b")]
    _, plan = planned("embed", inputs=inputs)
    assert [each.name for each in plan.inputs] == ["a/cells.h5ad", "b/cells.h5ad"]
    with pytest.raises(ValueError, match="named twice"):
        planned("embed", inputs=[inputs[0], inputs[0]])
