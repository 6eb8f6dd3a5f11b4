from __future__ import annotations

from typing import Any

import pytest

from cell2sen.inference.options import Options, check_options, recipe_for
from cell2sen.model import Model
from cell2sen.sentences.ranking import Recipe

MODEL = Model(name="any", path="any/where", recipe=Recipe(max_genes=9, case="upper"))


def test_options_of_all_groups() -> None:
    some = {"model", "layer", "use_raw", "max_genes", "templates", "backend", "device"}
    assert some <= Options.__optional_keys__


def test_unknown_options_list_the_known_ones() -> None:
    check_options({"layer": "counts", "max_genes": 3})
    options: Any = {"layr": "counts"}
    with pytest.raises(TypeError, match=r"unknown arguments \['layr'\]; available: \['aliases', 'backend'"):
        check_options(options)
    wrong: Any = {"scale": "log1p10k"}
    with pytest.raises(ValueError, match=r"scale must be one of auto, counts, .*; found 'log1p10k'"):
        check_options(wrong)


def test_recipe_is_the_models_with_changes() -> None:
    assert recipe_for(MODEL, {}) == MODEL.recipe
    unset: Any = {"max_genes": None, "ties": None}
    assert recipe_for(MODEL, unset) == MODEL.recipe
    assert recipe_for(MODEL, {"max_genes": 4, "ties": "alphabetical"}) == Recipe(
        max_genes=4, case="upper", ties="alphabetical"
    )
    with pytest.raises(ValueError, match="max_genes must be at least 1"):
        recipe_for(MODEL, {"max_genes": 0})
