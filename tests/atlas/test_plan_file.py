"""Plans: their identity, and refusals of others."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cell2sen import atlas
from cell2sen.atlas.plan_file import Plan


def test_the_same_call_again_is_the_same_plan(planned) -> None:
    (folder, first), (_, second) = planned("embed"), planned("embed")
    assert first.id == second.id
    with pytest.raises(ValueError, match=r"has another plan: arguments.pooling is null, not \"last\""):
        planned("embed", pooling="last")
    assert Plan.read(folder).id == first.id


def test_places_of_files_are_no_part_of_the_identity(planned) -> None:
    _, plan = planned("embed")
    moved = replace(plan, inputs=tuple(replace(each, path="/elsewhere") for each in plan.inputs))
    assert moved.id == plan.id
    assert replace(plan, batch_size=17).id != plan.id


def test_a_changed_plan_is_refused(planned) -> None:
    folder, _ = planned("embed")
    file = folder / "plan.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"batch_size": 99}))
    with pytest.raises(ValueError, match="was changed after it was written"):
        atlas.run(folder, progress=False)
