"""Evaluations to report, and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_names import EVIL, GENES, cells

from cell2sen.evaluation.evaluate import evaluate
from cell2sen.evaluation.result import Evaluation


@pytest.fixture(scope="session")
def perturbed() -> Evaluation:
    predicted = cells(1, ("alpha", EVIL))
    predicted.obs["sentence"] = [" ".join([*GENES[:5], "NOGENE", GENES[0], EVIL.split()[0]])] * predicted.n_obs
    options: dict[str, Any] = {"perturbation": "drug", "context": "cell_type", "resamples": 10, "components": 8}
    return evaluate(predicted, cells(0, ("control", "alpha", EVIL)), **options)


@pytest.fixture(scope="session")
def labelled() -> Evaluation:
    adata = cells(0, ("control",))
    rng = np.random.default_rng(0)
    adata.obs["guess"] = np.where(rng.random(adata.n_obs) < 0.8, adata.obs["cell_type"], "B")
    adata.obs["guess_score"] = rng.random(adata.n_obs)
    return evaluate(adata, adata, predicted_label="guess", resamples=10)


@pytest.fixture(scope="session")
def page(perturbed: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return perturbed.report(tmp_path_factory.mktemp("report") / "report.html", layout="pca")
