"""Names that a model was trained on, and others."""

from __future__ import annotations

import pytest
from cells import fake

from cell2sen.inference.trained import require_known, trained_names, warn_unknown

MODEL = fake(perturbations={"IFN-beta": 4, "STAT1 knock-out": 9, "STAT1 STAT2 knock-out": 2}).model


def test_names_of_a_kind() -> None:
    assert trained_names(MODEL, "perturbations")["STAT1 knock-out"] == 9
    assert trained_names(MODEL, "label:tissue") == {}


@pytest.mark.parametrize(
    ("name", "similar"),
    [("STAT1", "STAT1 knock-out"), ("stat2", "STAT1 STAT2 knock-out"), ("IFN-bete", "IFN-beta"), ("banana", None)],
)
def test_unknown_names_are_refused_with_the_most_similar(name: str, similar: str | None) -> None:
    with pytest.raises(ValueError, match=f"fake was not trained on the perturbations '{name}'") as error:
        require_known("perturbations", ["IFN-beta", name], MODEL, force=False)
    assert ("did you mean" in str(error.value)) == (similar is not None)
    if similar:
        assert f"did you mean {similar!r} for {name!r}" in str(error.value)


def test_known_names_forced_ones_and_models_without_lists(caplog: pytest.LogCaptureFixture) -> None:
    require_known("perturbations", ["IFN-beta"], MODEL, force=False)
    require_known("perturbations", ["anything"], fake(perturbations=None).model, force=False)
    assert not caplog.records
    require_known("perturbations", ["banana"], MODEL, force=True)
    assert "not trained on the perturbations 'banana': predictions for them are guesses" in caplog.text


def test_cell_types_in_place_of_perturbations(caplog: pytest.LogCaptureFixture) -> None:
    warn_unknown("perturbations", ["B cell"], MODEL)
    assert "'B cell' are cell types, not perturbations" in caplog.text
