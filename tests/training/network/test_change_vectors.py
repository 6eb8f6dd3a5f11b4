"""Change vectors: decomposition and counts by hand, and gene tokens that start from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_cells
from training_runs import cells_of, config, run, weights

from cell2sen.engine.tokenization.tokenizer import load_tokens
from cell2sen.training.config.data import Augmentation
from cell2sen.training.network.change_vectors import GroupCounts, change_vectors, group_counts


def counts_of(treated: list[float], control: list[float], n: int = 100) -> GroupCounts:
    symbols = ["A", "B", "C", "D"][: len(treated)]
    return GroupCounts(treated=np.array(treated), n_treated=n, control=np.array(control), n_control=n, symbols=symbols)


def groups() -> list[GroupCounts]:
    """Two contexts in which A rises and B falls; in the second also C rises; D is noise."""
    return [counts_of([90, 10, 50, 3], [10, 90, 50, 1]), counts_of([90, 10, 80, 0], [10, 90, 5, 2])]


def test_change_vectors_are_those_of_the_shrunken_log_frequencies() -> None:
    genes = ["E", "D", "C", "B", "A"]
    rows = []
    for group in groups():
        row = np.zeros(5)
        for k, j, symbol in zip(group.treated, group.control, group.symbols, strict=True):
            change, error = np.log((k + 1) / 102) - np.log((j + 1) / 102), 1 / (k + 1) + 1 / (j + 1)
            row[genes.index(symbol)] = change * max(0.0, 1 - 3 * error / change**2) if change else 0.0
        rows.append(row)
    vectors = change_vectors(groups(), genes, 4)
    assert np.abs(vectors[:2]).max() < 1e-6  # E: in no group; D: noise
    assert (vectors[:, 2:] == 0).all()  # two groups have two directions
    assert abs(np.mean(vectors[:, 0] ** 2) - 1) < 1e-5
    # Both rows are sums of the two columns.
    fitted, *_ = np.linalg.lstsq(vectors[:, :2].astype(float), np.array(rows).T, rcond=None)
    np.testing.assert_allclose(vectors[:, :2] @ fitted, np.array(rows).T, atol=1e-5)
    assert vectors[4, 0] > 1 > -1 > vectors[3, 0]  # A up, B down
    assert np.abs(vectors[2, 1]) > np.abs(vectors[2, 0]) / 4  # C: the second column separates the contexts


def test_change_vectors_are_zero_without_changes() -> None:
    assert (change_vectors([counts_of([5, 5], [5, 5], 10)], ["A", "B"], 2) == 0).all()
    assert (change_vectors([], ["A", "B"], 2) == 0).all()


def test_group_counts_are_those_of_the_sentences_of_training_cells(many_cells: Path) -> None:
    perturbation = {"column": "condition", "context": ["donor"]}
    cells = cells_of(many_cells, tasks="perturb", split={"test": 0.2}, perturbation=perturbation)
    sentences = cells.sentences(0, Augmentation(), 3).gene_names(5)
    donor, condition = (cells.obs[column].astype(str).to_numpy() for column in ("donor", "condition"))
    expected = []
    for name in sorted(set(donor)):
        side = {value: np.flatnonzero(~cells.test & (donor == name) & (condition == value)) for value in set(condition)}
        control = side.pop("control")
        expected += [(rows, control) for rows in side.values() if min(len(rows), len(control)) >= 10]
    counted = list(group_counts(cells, 5, 3))
    assert len(counted) == len(expected) > 2
    by_size = {(group.n_treated, group.n_control): group for group in counted}
    for rows, control in expected:
        group = by_size[len(rows), len(control)]
        for counts, side in ((group.treated, rows), (group.control, control)):
            for gene in (0, 7, 25):
                assert counts[gene] == sum(cells.symbols[gene] in sentences[row] for row in side)


@pytest.mark.slow
def test_gene_tokens_start_from_changes(folder: Path, tmp_path: Path) -> None:
    """Before the first step gene vectors have changed, names of perturbations are scaled up, other words unchanged."""
    no_context = {"perturbation": {"column": "condition"}}
    still = {"optimiser.max_steps": 1, "optimiser.learning_rate": 1e-12}
    plain, changed = (
        run(folder, tmp_path / str(size), config({**still, "model.change_vectors": size}, file=no_context))
        for size in (0, 2)
    )
    before, after = (weights(model)["gpt_neox.embed_in.weight"] for model in (plain, changed))
    tokens = load_tokens(changed.path)
    rows = [ids[0] for ids in tokens.ids([" " + gene for gene in training_cells.SYMBOLS])]
    moved = (after - before).norm(dim=1)
    names = [token for ids in tokens.ids([" IL-2", " IFN-beta"]) for token in ids]
    others = [row for row in range(len(moved)) if row not in {*rows, *names}]
    assert float(moved[others].max()) < 1e-6
    sizes = [vectors[names].pow(2).mean(dim=1).sqrt() for vectors in (before, after)]
    assert float(sizes[0].max()) < 0.2 < 0.22 < float(sizes[1].min()) < 0.23, "the square root of 0.05"
    response = (after - before)[[rows[gene] for gene in range(24, 36)]]
    assert float(response.norm(dim=1).min()) > 3 * float(moved[rows[:24]].mean())
    without = config({"model.change_vectors": 2}, file={"tasks": ["annotate"], "perturbation": None})
    with pytest.raises(ValueError, match=r"model\.change_vectors needs perturbed training cells"):
        run(folder, tmp_path / "no", without)


@pytest.mark.slow
def test_a_new_perturbation_has_change_vectors_by_default(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the model has a name for no perturbation, which a fine-tuned model keeps."""
    column: dict[str, Any] = {"column": "condition"}
    named = {"tasks": ["perturb"], "perturbation": {**column, "no_perturbation": "nothing"}}
    start = run(folder, tmp_path / "start", config({"optimiser.max_steps": 1}, file=named))
    still = {"optimiser.max_steps": 1, "optimiser.learning_rate": 1e-12}
    new = {**column, "names": {"IL-2": "interleukin 2"}}
    entries: dict[str, dict[str, Any]] = {
        "known": {"perturbation": column},
        "new": {"perturbation": new},
        "few": {"perturbation": {**new, "context": ["cell_type"]}, "matrix": {"where": {"donor": "d1"}}},
    }
    moved = {}
    for name, entry in entries.items():
        model = run(folder, tmp_path / name, config(still, start=start, file={"tasks": ["perturb"], **entry}))
        [file] = model.metadata["training"]["data"]["files"]
        assert file["perturbation"]["no_perturbation"] == "nothing"
        before, after = (weights(path)["gpt_neox.embed_in.weight"] for path in (start, model))
        moved[name] = float((after - before).norm())
    assert moved["new"] > 100 * max(moved["known"], moved["few"])
    assert "gene tokens get no change vectors" in caplog.text
