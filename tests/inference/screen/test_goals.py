from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cell2sen.inference.screen.goals import direction_weights, fit_probe, goal_of, set_weights


def test_goals(tmp_path: Path) -> None:
    (tmp_path / "sets.gmt").write_text("A\t\tCD4\tLYZ\nB\t\tB2M\n")
    assert goal_of("A", tmp_path / "sets.gmt", None, None).genes == ("CD4", "LYZ")
    assert goal_of("CD4; LYZ", None, None, None).genes == goal_of({"x": ["CD4", "LYZ"]}, None, None, None).genes
    assert goal_of(None, None, ["a", "b"], None).groups == ("a", "b")
    for wrong, message in (
        ((None, None, None, None), "pass one goal"),
        ((["CD4"], None, None, "B cell"), "pass one goal"),
        ((["CD4"], "sets.gmt", None, None), "name of one of them"),
        (({"a": ["CD4"], "b": ["LYZ"]}, None, None, None), "one set, found 2"),
        ((None, None, ("a", "a"), None), "two different groups"),
    ):
        with pytest.raises(ValueError, match=message):
            goal_of(*wrong)


def test_weights() -> None:
    assert set_weights(["cd4", "B2M", "none"], ["B2M", "X", "CD4"]).tolist() == [0.5, 0, 0.5]
    with pytest.raises(ValueError, match="none of the 1 genes of the set"):
        set_weights(["no"], ["B2M"])
    start, end = np.array([1.0, 2.0]), np.array([3.0, -1.0])
    weights = direction_weights(start, end)
    assert (end - start) @ weights == pytest.approx(1)
    with pytest.raises(ValueError, match="same mean"):
        direction_weights(start, start)


def test_probe_learns_a_linear_score_within_contexts_only() -> None:
    generator = np.random.default_rng(0)
    x, true = generator.normal(size=(300, 6)), np.array([1.0, -2.0, 0, 0, 0.5, 0])
    groups = ["a"] * 150 + ["b"] * 150
    names = [f"c{number}" for number in range(300)]
    x[150:, 5] += 10
    score = x @ true + np.repeat([0, 50.0], 150) + generator.normal(size=300) * 0.1
    probe = fit_probe(x, score, groups, names)
    assert probe.weights == pytest.approx(true, abs=0.05)
    assert probe.r > 0.98
    assert fit_probe(x, generator.normal(size=300), groups, names).r < 0.3
    order = generator.permutation(300)
    again = fit_probe(x[order], score[order], [groups[at] for at in order], [names[at] for at in order])
    assert again.weights == pytest.approx(probe.weights, abs=1e-9)
    with pytest.raises(ValueError, match="same score"):
        fit_probe(x, np.ones(300), groups, names)
