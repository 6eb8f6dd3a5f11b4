from __future__ import annotations

import numpy as np
import pytest

from cell2sen.inference.responses.made_up_names import MADE_UP_NAMES, made_up_like, standing_out, without_directions


def test_made_up_names_have_the_form_of_a_name() -> None:
    names = made_up_like("IL-2 and Dexa 10", known=["tnf"])
    assert names == made_up_like("IL-2 and Dexa 10", known=["TNF"])
    assert len({*names, "IL-2 and Dexa 10"}) == 5
    for name in names:
        assert [c.isupper() for c in name] == [c.isupper() for c in "IL-2 and Dexa 10"]
        assert [c.isdigit() for c in name] == [c.isdigit() for c in "IL-2 and Dexa 10"]
        assert [c in "aeiouyAEIOUY" for c in name] == [c in "aeiouyAEIOUY" for c in "IL-2 and Dexa 10"]


def test_names_that_mean_something_are_not_made_up() -> None:
    names = made_up_like("A", known=["e", "I"])
    assert not {"A", "E", "I"} & set(names)
    assert len(set(names)) == 4
    assert len(set(made_up_like("β?"))) == 4
    assert len(set(made_up_like(MADE_UP_NAMES[0], 50))) == 50


def test_directions_are_taken_out_row_by_row() -> None:
    rng = np.random.default_rng(0)
    changes, directions = rng.normal(size=(4, 30)), rng.normal(size=(4, 30, 2))
    directions[1] = 0  # nothing to take out
    directions[2, :, 1] = 3 * directions[2, :, 0]  # one direction
    cleared = without_directions(changes, directions)
    np.testing.assert_array_equal(cleared[1], changes[1])
    np.testing.assert_allclose(np.einsum("ngd,ng->nd", directions, cleared), 0, atol=1e-9)
    for row in (0, 2, 3):
        fitted = directions[row] @ np.linalg.lstsq(directions[row], changes[row], rcond=None)[0]
        np.testing.assert_allclose(cleared[row], changes[row] - fitted, atol=1e-9)


def test_what_stands_out_by_hand() -> None:
    rng = np.random.default_rng(1)
    changes, made_up = rng.normal(size=(3, 40)), rng.normal(size=(3, 40, 4))
    changes[0] *= 5
    changes[1] = made_up[1] @ [0.3, 0.1, 0.4, 0.2] + 0.1 * changes[1]  # within the spread
    found = standing_out(changes, made_up)

    def left(vector: np.ndarray, others: np.ndarray) -> np.ndarray:
        return np.asarray(vector - others @ np.linalg.lstsq(others, vector, rcond=None)[0])

    for row in range(3):
        noise = max(
            (left(made_up[row, :, j], made_up[row][:, [k for k in range(4) if k != j]]) ** 2).sum() for j in range(4)
        )
        remaining = left(changes[row], made_up[row])
        share = max(0.0, 1 - noise / (remaining**2).sum())
        np.testing.assert_allclose(found[row], share * remaining, atol=1e-9)
    assert np.abs(found[0]).max() > 1
    np.testing.assert_array_equal(found[1], 0)


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_a_model_that_ignores_names_has_no_response(size: float) -> None:
    """All names change the same: nothing is left; without any change nothing is divided by 0."""
    change = size * np.random.default_rng(2).normal(size=(2, 20))
    np.testing.assert_allclose(standing_out(change, np.stack([change] * 4, axis=2)), 0, atol=1e-12)
    np.testing.assert_array_equal(standing_out(2 * np.ones((1, 5)), np.zeros((1, 5, 4))), 2)
