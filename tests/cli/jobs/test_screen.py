"""The command screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from command import Run, digest
from typed_cells import typed

from cell2sen.cli import screen
from cell2sen.inference.screen import goals


def test_menus_are_those_of_the_package() -> None:
    assert get_args(screen.Space) == get_args(goals.Space)


@pytest.mark.filterwarnings("ignore")
def test_a_table_in_a_file(run: Run, model: str, tmp_path: Path) -> None:
    typed(24, seed=1).write_h5ad(tmp_path / "cells.h5ad")
    before = digest(tmp_path / "cells.h5ad")
    given = ("screen", tmp_path / "cells.h5ad", "out.parquet", "--delete", "CD4; LYZ", "--overexpress", "NKG7")
    goal = ("--from", "B cell", "--to", "T cell", "--groupby", "cell_type", "--min-cells", "2", "--n-null", "5")
    done = run(*given, *goal, "-m", model, "--json", "-q")
    assert done.code == 0, done.err
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert sorted(table["item"]) == ["CD4", "LYZ", "NKG7"]
    assert json.loads(done.out)["top"]["all cells"].keys() == set(table["item"])
    assert digest(tmp_path / "cells.h5ad") == before
    missing = run("screen", tmp_path / "cells.h5ad", "out.csv", "--delete", "CD4", "--from", "B cell", "-m", model)
    assert missing.code == 1
    assert "--to" in missing.err
