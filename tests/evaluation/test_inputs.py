"""Cells on one scale, over common genes, in groups; what cannot be compared is an error."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from cells import cells, fake
from experiment import REAL, TWIN, log_cp10k, means, perturbed, run

from cell2sen import tl
from cell2sen.evaluation.inputs import align, group_name, group_rows, read, some_of


def with_nan() -> ad.AnnData:
    cells = perturbed(TWIN)
    cells.X = cells.X.toarray()
    cells.X[3, 5] = np.nan
    return cells


def other_genes() -> ad.AnnData:
    cells = perturbed(TWIN)
    cells.var_names = [f"ENSG{number:011d}" for number in range(cells.n_vars)]
    cells.var["symbol"] = [f"mouse{number}" for number in range(cells.n_vars)]
    return cells


def test_constant_predictions_are_not_taken_for_linear_values() -> None:
    """Rows of one mean have equal sums, as values normalised without a logarithm have."""
    predicted = perturbed(REAL)
    values = log_cp10k(REAL)
    predicted.X = np.tile(values.mean(axis=0), (predicted.n_obs, 1)).astype(np.float32)
    evaluation = run(predicted, metrics=["pearson"])
    assert evaluation.settings["scale"]["predicted"].startswith("log base e")
    expected = np.mean(
        [np.corrcoef(values.mean(axis=0), mean)[0, 1] for (drug, _), mean in means(REAL).items() if drug != "control"]
    )
    assert evaluation.table.loc["pearson", "prediction"] == pytest.approx(expected, abs=1e-5)


def test_genes_that_are_missing_from_the_prediction_are_noted() -> None:
    predicted = perturbed(TWIN)[:, 60:].copy()
    evaluation = run(predicted, metrics=["pearson"])
    assert evaluation.settings["genes"]["compared"] == 90
    assert evaluation.settings["genes"]["share_of_true_change"] < 0.85
    assert any("the compared genes hold" in note for note in evaluation.notes)


def test_damaged_and_foreign_cells_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 of 216 predicted cells hold NaN or infinite .* \['twin39'\]"):
        run(with_nan())
    with pytest.raises(ValueError, match=r"no gene in common: predicted has \['mouse0'"):
        run(other_genes())
    scaled = TWIN.copy()
    scaled.X = scaled.X.toarray() - 3
    with pytest.raises(ValueError, match="look scaled per gene"):
        read(scaled, "predicted")
    twice = TWIN.copy()
    twice.obs_names = ["cell"] * twice.n_obs
    with pytest.raises(ValueError, match="cell names of the real cells are not unique"):
        read(twice, "real")


def test_rows_means_and_moments_equal_numpy() -> None:
    cells, values = read(REAL, "real"), log_cp10k(REAL)
    rows = np.array([5, 2, 9])
    np.testing.assert_allclose(cells.rows(rows).toarray(), values[rows], rtol=1e-5)
    np.testing.assert_allclose(cells.mean(rows), values[rows].mean(axis=0), atol=1e-6)
    mean, variance = cells.moments(rows)
    np.testing.assert_allclose(mean, values[rows].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(variance, values[rows].var(axis=0, ddof=1), atol=1e-5)


def test_common_genes_are_in_alphabetical_order_and_case_can_be_ignored() -> None:
    lower = TWIN[:, ::-1].copy()
    lower.var_names = lower.var_names.str.lower()
    first, second = read(lower, "predicted"), read(REAL[:, 3:], "real")
    with pytest.raises(ValueError, match="ignore case with case='upper'"):
        align(first, second)
    genes, account = align(first, second, case="upper")
    assert genes == sorted(REAL.var_names[3:])
    assert (account["compared"], account["left_out"]) == (147, {"predicted": 3, "real": 0})
    np.testing.assert_allclose(
        second.rows([0]).toarray(), log_cp10k(REAL[:, 3:])[:1][:, np.argsort(REAL.var_names[3:])], rtol=1e-5
    )


def test_groups_hold_rows_in_the_order_of_names() -> None:
    mixed = REAL[np.random.default_rng(0).permutation(REAL.n_obs)].copy()
    mixed.obs.loc[mixed.obs_names[0], "donor"] = None
    cells = read(mixed, "real")
    rows = group_rows(cells, ["donor", "cell_type"], {"d0": "first"})
    assert [group_name(key) for key in rows][-2:] == ["first | B", "first | T"]
    assert sum(map(len, rows.values())) == REAL.n_obs - 1
    assert all(list(cells.names[some]) == sorted(cells.names[some]) for some in rows.values())


def test_long_lists_of_names_are_cut() -> None:
    assert some_of(["a", "b"]) == "a, b"
    assert some_of(list("abcd"), 2) == "a, b and 2 more"


def test_predictions_are_matched_by_the_names_of_their_input() -> None:
    """Identifiers with a table, an antibody's name given back, mouse genes: all genes are compared."""
    real = cells()
    n = real.n_vars
    real.var = pd.DataFrame(
        {"feature_types": ["Antibody Capture"] + ["Gene Expression"] * (n - 1)},
        index=[real.var_names[1], f"{real.var_names[1]}-1", *(name.capitalize() for name in real.var_names[2:])],
    )
    real.uns["organism"] = "Mus musculus"
    predicted = tl.perturb(real, "IFN-beta", model=fake(), case="upper", progress=False)
    assert list(predicted.var_names) == list(real.var_names[1:])
    first, second = (read(data, name) for data, name in ((predicted, "predicted"), (real, "real")))
    genes, account = align(first, second)
    assert account["compared"] == n - 1
    assert account["left_out"] == {"predicted": 0, "real": 0}
    row = predicted.var_names.get_loc(f"{predicted.var['symbol'].iloc[0]}-1")
    gene = genes.index(predicted.var["symbol"].iloc[0])
    assert first.rows([0]).toarray()[0, gene] == predicted.X[0, row]
    words = set(predicted.obs["sentence"].iloc[0].split())
    assert words <= first.vocabulary


def test_values_of_raw_are_read_by_name() -> None:
    scaled = REAL.copy()
    scaled.raw = REAL.copy()
    scaled.X = REAL.X.toarray() - REAL.X.toarray().mean(axis=0)
    with pytest.raises(ValueError, match=r"real_layer= \(the name of a layer, or raw\)"):
        run(perturbed(TWIN), scaled, metrics=["pearson"])
    expected = run(perturbed(TWIN), REAL, metrics=["pearson"]).table
    pd.testing.assert_frame_equal(run(perturbed(TWIN), scaled, metrics=["pearson"], real_layer="raw").table, expected)
    with pytest.raises(KeyError, match=r"no layer 'rw'; available: \[.*'raw'\]"):
        run(perturbed(TWIN), scaled, metrics=["pearson"], real_layer="rw")
