"""Workers: order of shards, inputs and models that are not those of the plan."""

from __future__ import annotations

import shutil

import pytest
from cells import cells

from cell2sen import atlas
from cell2sen.atlas import shards, worker


def test_order_begins_with_the_own_shards_and_then_helps_from_the_end(planned) -> None:
    _, plan = planned("embed")
    assert list(worker._order(plan, 0, 2)) == [0, 2, 4, 3, 1]
    assert list(worker._order(plan, 1, 2)) == [1, 3, 4, 2, 0]
    assert list(worker._order(plan, 7, 2)) == [1, 3, 4, 2, 0]


def test_a_failed_input_is_kept_apart_and_tried_again(planned, files, tmp_path) -> None:
    good, bad = files[0].read_bytes(), tmp_path / "bad.h5ad"
    bad.write_bytes(good)
    folder, _ = planned("embed", inputs=[bad, files[1]])
    cells(13, seed=9).write_h5ad(bad)
    status = atlas.run(folder, progress=False)
    assert (status.done, sorted(status.failed)) == (2, [0, 1, 2])
    assert "bad.h5ad) was changed after the plan was made" in status.failed[0]
    with pytest.raises(ValueError, match="3 of 5 shards"):
        atlas.collect(folder, tmp_path / "all.h5ad", progress=False)
    bad.write_bytes(good)
    assert atlas.run(folder, progress=False).finished
    assert not shards.failures(folder)


def test_an_input_that_is_gone_is_named(planned, files, tmp_path) -> None:
    copy = tmp_path / "copy.h5ad"
    copy.write_bytes(files[0].read_bytes())
    folder, _ = planned("embed", inputs=copy)
    copy.unlink()
    assert "the input copy.h5ad is gone" in atlas.run(folder, progress=False).failed[0]


def test_another_model_is_refused(planned, model, tmp_path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    folder, _ = planned("embed", model=str(copy))
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="is not that of the plan"):
        atlas.run(folder, progress=False)
