from __future__ import annotations

import json
from pathlib import Path

from cells import cells
from command import Run


def test_check(run: Run, file: Path, model: str, tmp_path: Path) -> None:
    text = run("check", file, "-m", model)
    assert text.code == 0
    assert text.out.rstrip().splitlines()[-1].startswith("ready")
    machine = run("check", file, "-m", model, "--json", "--quiet")
    assert machine.code == 0
    assert json.loads(machine.out)["n_cells"] == 6
    broken = cells()
    broken.X = -broken.X
    broken.write_h5ad(tmp_path / "broken.h5ad")
    for arguments in (["broken.h5ad"], ["nowhere.h5ad"]):
        done = run("check", *arguments, "-m", model, "--json")
        assert done.code == 1
        assert json.loads(done.out)["ok"] is False
