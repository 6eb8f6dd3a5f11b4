"""Columns with predictions, as annotate recorded them."""

import anndata as ad
import pytest

from cell2sen.evaluation.evaluate import evaluate


def test_labels_of_any_column_are_found_as_recorded(labelled: ad.AnnData) -> None:
    several = labelled.copy()
    several.obs["cell2sen_donor"] = several.obs["donor"]
    results = {f"cell2sen_{name}": {"column": name, "key": f"cell2sen_{name}"} for name in ("cell_type", "donor")}
    several.uns["cell2sen"] = {"annotate": {**results["cell2sen_cell_type"], "results": results}}
    options = {"resamples": 5, "metrics": ["balanced_accuracy"], "leaks": "report"}
    assert evaluate(several, labelled, label="donor", **options).table.loc["balanced_accuracy", "prediction"] == 1
    with pytest.raises(
        ValueError, match=r"predictions of 'drug' are not among \['cell2sen_cell_type', 'cell2sen_donor'\]"
    ):
        evaluate(several, labelled, label="drug", **options)
