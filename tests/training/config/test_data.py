"""Settings of the data: splits, files, names."""

from __future__ import annotations

import pytest

from cell2sen.training.config.data import DataConfig, PerturbationColumn, Split, TrainingFile


def test_splits_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="name it as by:"):
        Split(values=("d1",))
    with pytest.raises(ValueError, match="from 0 to below 1, found 20"):
        Split(test=20)


def test_each_file_is_named_once() -> None:
    with pytest.raises(ValueError, match=r"each file can be named once, found \['a', 'a'\]"):
        DataConfig(files=(TrainingFile(file="a"), TrainingFile(file="a")))


def test_files_without_perturbations_have_the_defaults() -> None:
    plain = TrainingFile(file="a")
    assert (plain.control, plain.context, plain.no_perturbation) == ("control", (), None)
    column = PerturbationColumn(column="drug", control="DMSO", context=("donor",), no_perturbation="nothing")
    perturbed = TrainingFile(file="a", perturbation=column)
    assert (perturbed.control, perturbed.context, perturbed.no_perturbation) == ("DMSO", ("donor",), "nothing")
