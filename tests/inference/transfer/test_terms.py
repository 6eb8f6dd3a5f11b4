"""Ids of labels in obs."""

from __future__ import annotations

import pandas as pd

from cell2sen.inference.transfer.terms import terms_of_labels


def test_ids_of_obs_come_before_those_of_names() -> None:
    obs = pd.DataFrame(
        {
            "type": ["c1", "c1", "c1", "B cell", "B cell", "NK", None],
            "type_ontology_term_id": ["CL:0000084", "CL:0000236", "CL:0000084", "CL:0000788", None, "unknown", "CL:0"],
        }
    )
    labels = ["B cell", "NK", "c1", "c2"]
    assert terms_of_labels(obs, "type", labels) == {"B cell": "CL:0000788", "NK": "CL:0000623", "c1": "CL:0000084"}
    assert terms_of_labels(obs[["type"]], "type", labels) == {"B cell": "CL:0000236", "NK": "CL:0000623"}
