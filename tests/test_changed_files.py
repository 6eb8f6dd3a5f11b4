"""Files as people have them: random chains of changes of a matrix with a known truth, and the check of each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import changed_files
import numpy as np
import pytest
from changed_files import SEVERAL, Case, Change, build, cases
from changed_files_read import BAD, Data, verdict, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cell2sen as c2s
from cell2sen.data import expression
from cell2sen.data.scale.units import COUNTS, LN_CP10K

quiet = pytest.mark.filterwarnings("ignore")
every_draw = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return lambda: tmp_path_factory.mktemp("changed")


@pytest.mark.slow
@quiet
@settings(every_draw, max_examples=200)
@given(case=cases())
def test_right_or_refused_or_warned_with_the_reason(case: Case, folder: Any) -> None:
    result = verdict(case, written(case, folder()))
    assert result.kind not in BAD, f"{result.kind} after {case.chain}: {result.text}"


@pytest.mark.slow
@quiet
@settings(every_draw, max_examples=25)
@given(case=cases(), options=st.sampled_from([{}, {"max_genes": 20}, {"scale": "counts"}]))
def test_what_is_ready_in_the_check_runs_and_is_read_the_same(case: Case, options: dict[str, Any], folder: Any) -> None:
    data = written(case, folder())
    read: dict[str, Any] = {"layer": data.layer, "use_raw": data.use_raw, **options}
    result = c2s.check(data.data, **read)
    if not result.ok:
        with pytest.raises((ValueError, KeyError)) as refusal:
            c2s.tl.embed(_object(data), backend="fake", progress=False, copy=True, **read)
        assert refusal.value.args[0] in result.text
        return
    embedded = c2s.tl.embed(_object(data), backend="fake", progress=False, copy=True, **read)
    done = embedded.uns["cell2sen"]["embed"]
    numbers = result.numbers
    scale = next(finding for finding in result.findings if finding.topic == "scale").text
    assert scale.startswith(done["scale"])
    assert " and ".join(numbers["organisms"]) == done["organism"]
    assert numbers["n_cells"] - numbers["n_empty_cells"] == int((~np.isnan(embedded.obsm["X_cell2sen"][:, 0])).sum())
    for key in ("symbols", "not_genes", "dropped", "n_unknown_to_model", "share_of_counts_known", "n_missing_values"):
        assert numbers["genes"].get(key) == done["genes"].get(key)


def _object(data: Data) -> Any:
    from cell2sen.data.files.opening import read_anndata

    return read_anndata(data.data) if isinstance(data.data, Path) else data.data


# -- the truth notices a faulty recogniser


def _kinds(change: Change, folder: Path, seeds: int = 12) -> set[str]:
    """Verdicts on counts of 12 cells after one change."""
    drawn = (build(seed, 1000, 12, 2000, [change]) for seed in range(seeds))
    return {verdict(case, written(case, folder)).kind for case in drawn}


@quiet
@pytest.mark.parametrize("change", [change for change in changed_files.SCALES if change.is_clear], ids=repr)
def test_a_recogniser_that_takes_all_for_one_scale_is_noticed(change: Change, tmp_path: Path, monkeypatch: Any) -> None:
    assert _kinds(change, tmp_path) == {"right"}
    wrong = COUNTS if "log1p_cp10k" in repr(change) or "noise" in repr(change) else LN_CP10K
    monkeypatch.setattr(expression, "scale_of", lambda *_: wrong)
    assert _kinds(change, tmp_path) <= set(BAD)
    monkeypatch.setattr(expression, "contradicting", lambda rows, _: np.zeros(rows.shape[0], dtype=bool))
    assert _kinds(change, tmp_path) <= set(BAD)


@quiet
@pytest.mark.parametrize("change", [changed_files.batch_of_logarithms, changed_files.one_cell_of_logarithms])
def test_blocks_that_are_not_tested_are_noticed(change: Any, tmp_path: Path, monkeypatch: Any) -> None:
    assert _kinds(Change(change, SEVERAL), tmp_path) == {"refused"}
    found = expression.scale_of

    def of_first_cells(reader: Any, name: Any = None) -> Any:
        """A scale recognised from cells that are all counts, as if the others were in another block."""
        return dataclasses.replace(found(reader, "counts"), certain=True)

    monkeypatch.setattr(expression, "scale_of", of_first_cells)
    monkeypatch.setattr(expression, "contradicting", lambda rows, _: np.zeros(rows.shape[0], dtype=bool))
    assert "silent wrong" in _kinds(Change(change, SEVERAL), tmp_path)


@quiet
def test_a_file_without_changes_is_right(tmp_path: Path) -> None:
    for seed in range(5):
        case = build(seed, 300, 12, 2000, [])
        assert verdict(case, written(case, tmp_path)).kind == "right"
