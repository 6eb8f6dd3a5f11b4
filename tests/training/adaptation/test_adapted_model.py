"""Metadata and card of an adapted model: what it says of its origin, its cells, and of what is not known."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from cells import cells, fake

from cell2sen.training.adaptation.adapted_model import adapted_metadata, card
from cell2sen.training.adaptation.settings import Adaptation
from cell2sen.training.adaptation.unlabelled_cells import UnlabelledCells

RECORD: dict[str, Any] = {
    "file": "cells.h5ad",
    "n_cells": 60,
    "n_train": 54,
    "n_held_out": 6,
    "organisms": ["Homo sapiens"],
    "steps": 7,
    "minutes": 0.5,
    "settings": dataclasses.asdict(Adaptation()),
    "losses": {"before": {"next_gene": 3.0, "two_views": 2.0}, "after": {"next_gene": 2.5, "two_views": 1.25}},
}


def metadata_of(**of_start: Any) -> dict[str, Any]:
    start = fake(**of_start).model
    own = UnlabelledCells(cells(60), start, lambda symbols: np.ones(len(symbols), dtype=bool), {"progress": False})
    return adapted_metadata(start, own, RECORD)


def test_origin_is_kept_and_scores_are_not() -> None:
    metadata = metadata_of(scores=[1], weights_sha256="0123", started_from={"name": "base"}, genes=["CD4"])
    assert metadata["started_from"]["weights_sha256"] == "0123"
    assert metadata["started_from"]["started_from"] == {"name": "base"}
    assert not {"scores", "weights_sha256"} & set(metadata)
    assert (metadata["genes"], metadata["dtype"], metadata["adaptation"]) == (["CD4"], "float32", RECORD)
    assert metadata["fit"] == fake().model.metadata["fit"]


def test_measured_responses_stay_where_the_network_has_no_share() -> None:
    measured = {"IFN-beta": {"contexts": {}, "model_share": 0.0}}
    assert metadata_of(responses=measured)["responses"] == measured
    assert "responses" not in metadata_of(responses={"IFN-beta": {"contexts": {}, "model_share": 0.1}})


def test_a_fit_is_that_of_the_cells_where_the_model_has_none() -> None:
    assert metadata_of(fit=None)["fit"]["slope"] < 0


def test_card_states_cells_steps_losses_and_limits() -> None:
    text = card(metadata_of(), has_gene_part=True)
    assert "| cells | cells.h5ad: 60, of which 54 trained on, 6 held out |" in text
    assert "| steps | 7 (as many as fit into 0.5 minutes), 32 cells in two views each; seed 0 |" in text
    assert "| two views of one cell | 2.000 | 1.250 |" in text
    assert "no longer\n  calibrated" in text
    assert "| gene part of embeddings | none |" in card(metadata_of(), has_gene_part=False)
