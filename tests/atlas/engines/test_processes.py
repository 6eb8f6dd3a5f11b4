"""Local processes: two do what one does."""

from __future__ import annotations

import pytest
from atlas_runs import contents

from cell2sen import atlas


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(planned, monkeypatch) -> None:
    from pathlib import Path

    import cell2sen

    monkeypatch.setenv("PYTHONPATH", str(Path(cell2sen.__file__).parents[1]))
    (first, _), (second, _) = planned("embed", "one"), planned("embed", "two")
    atlas.run(first, progress=False)
    seen: list[float] = []
    assert atlas.run(second, workers=2, progress=lambda name, done, total: seen.append(done)).finished
    assert contents(first) == contents(second)
    assert seen[-1] == 20
