"""Settings have the defaults of `evaluate`, and refuse impossible values."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

from cell2sen.evaluation.evaluate import evaluate
from cell2sen.evaluation.settings import Columns, Leakage, Sampling, Settings, Values, as_list


def test_defaults_are_those_of_evaluate() -> None:
    parameters = inspect.signature(evaluate).parameters
    options = [
        option
        for part in (Settings, Columns, Values, Leakage, Sampling)
        for option in dataclasses.fields(part)
        if option.default is not dataclasses.MISSING
    ]
    assert {option.name for option in options} | {"predicted", "real", "train"} == set(parameters)
    assert {option.name: parameters[option.name].default for option in options} == {
        option.name: option.default for option in options
    }


def test_options_are_put_into_their_part() -> None:
    settings = Settings.of(context="donor", seed=3, case="upper", task="generate", leaks="report")
    assert settings == Settings(
        task="generate",
        columns=Columns(context="donor"),
        sampling=Sampling(seed=3),
        values=Values(case="upper"),
        leakage=Leakage(leaks="report"),
    )
    with pytest.raises(TypeError, match="contexts"):
        Settings.of(contexts="donor")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"task": "perturbation"}, r"task must be one of \['perturb', 'generate', 'annotate', 'number', 'text', "),
        ({"controls": "half"}, "controls must be 'split' or 'shared', found 'half'"),
        ({"resamples": -1}, "resamples must be at least 0, max_cells and min_cells at least 2: found -1, 500, 10"),
        ({"min_cells": 1}, "at least 2: found 100, 500, 1"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Settings.of(**options)


def test_settings_are_frozen_and_recorded_as_plain_values() -> None:
    settings = Settings.of(context=("donor", "type"), encoder=(object(), object()), seed=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.task = "perturb"  # type: ignore[misc]
    record = settings.record()
    assert (record["context"], record["encoder"], record["seed"]) == (["donor", "type"], "passed as an object", 2)
    assert as_list("donor") == ["donor"]


@pytest.mark.parametrize(("option", "value"), [("leaks", "ignore"), ("case", "lower"), ("leaks", None)])
def test_menus_are_checked(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{option} must be one of \[.*\], found {value!r}"):
        Settings.of(**{option: value})
