"""New models and their first gene vectors, beside NumPy's decomposition and counts by hand."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import tiny
import training_cells
from training_runs import SCRATCH, cells_of, config, run

from cell2sen import backends
from cell2sen.backend import Sampling
from cell2sen.engine.tokenization.tokenizer import load_tokens
from cell2sen.training.network.from_scratch import common_genes, gene_vectors, log_frequency


def matrices() -> list[tuple[sp.csr_matrix, list[str]]]:
    generator = np.random.default_rng(0)
    first = generator.poisson(1.0, (30, 4)).astype(np.float32)
    second = generator.poisson(2.0, (20, 3)).astype(np.float32)
    return [(sp.csr_matrix(first), ["A", "B", "C", "D"]), (sp.csr_matrix(second), ["C", "X", "A"])]


def test_common_genes_are_those_of_enough_training_cells(many_cells: Path) -> None:
    cells = {"a": cells_of(many_cells, split={"test": 0.5}), "b": cells_of(many_cells, split={"test": 0.0})}
    counts = sum((file.matrix[~file.test] > 0).sum(axis=0).A1 for file in cells.values())
    min_cells = int(np.median(counts))
    symbols = cells["a"].symbols
    expected = sorted(symbol for symbol, n in zip(symbols, counts, strict=True) if n >= min_cells)
    assert common_genes(cells, min_cells) == tuple(expected)


def test_a_gene_of_two_names_is_one_gene_under_its_approved_symbol(many_cells: Path) -> None:
    cells = {"old": cells_of(many_cells), "new": cells_of(many_cells)}
    others = cells["old"].symbols[2:]
    cells["old"].symbols, cells["new"].symbols = ("GNB2L1", "IL8", *others), ("RACK1", "IL8", *others)
    plain, approved = (set(common_genes(cells, 1, approved_symbols=flag)) for flag in (False, True))
    assert {"GNB2L1", "RACK1", "IL8"} <= plain
    assert {"RACK1", "CXCL8"} <= approved
    assert not {"GNB2L1", "IL8"} & approved


def test_gene_vectors_are_those_of_the_scaled_matrix() -> None:
    genes = ["A", "B", "C", "D", "E"]
    dense = np.zeros((50, 5))
    dense[:30, :4] = matrices()[0][0].toarray()
    dense[30:, [2, 0]] = matrices()[1][0].toarray()[:, [0, 2]]
    _, _, right = np.linalg.svd(dense / (dense.std(axis=0) + 0.1))
    vectors = gene_vectors(matrices(), genes, 3, seed=0)
    np.testing.assert_allclose(np.abs(vectors), np.abs(right[:3].T * np.sqrt(5)), atol=1e-4)
    assert (vectors[4] == 0).all()


def test_log_frequency_counts_cells() -> None:
    frequency, spread = log_frequency(matrices(), ["A", "B", "E"])
    shares = [{g: float((m.toarray()[:, names.index(g)] > 0).mean()) for g in names} for m, names in matrices()]
    a, b = (max(share.get(g, 0.0) for share in shares) for g in "AB")
    logs = np.log(np.array([a, b, 0.0]) + 1e-3)
    np.testing.assert_allclose(frequency * spread + logs.mean(), logs, rtol=1e-5)
    assert abs(frequency.mean()) < 1e-6


@pytest.mark.slow
def test_genes_in_pieces(folder: Path, tmp_path: Path) -> None:
    shape = {**SCRATCH, "layers": 1, "context": 512, "tokenizer": {"min_cells": 3, "kind": "bpe", "text_tokens": 400}}
    settings = config({"model.from_scratch": shape, "optimiser.max_steps": 2})
    model = run(folder, tmp_path / "out", settings)
    assert model.genes is None
    loaded = backends.load(model, progress=False)
    assert loaded.known_genes(["CD4", "NEVERSEEN"]).all()
    assert loaded.count_tokens([" CD4 CD44 HLA-DRA RPS27A"])[0] > 5
    assert loaded.network.config.vocab_size <= 400
    assert loaded.network.config.layer_norm_eps == 1e-5
    [text] = loaded.generate(tiny.prompts(1, answer_genes=4), Sampling(), genes=["NEVERSEEN", *training_cells.SYMBOLS])
    assert len(text.split()) >= 4
    assert np.isfinite(loaded.embed(tiny.prompts(2)).vectors).all()


@pytest.mark.slow
def test_fine_tuned_models_learn_new_genes(folder: Path, tmp_path: Path) -> None:
    shape = {**SCRATCH, "layers": 1}
    first = run(folder, tmp_path / "first", config({"model.from_scratch": shape, "optimiser.max_steps": 2}))
    assert backends.load(first, progress=False).network.config.layer_norm_eps == 0.05
    adata = anndata.read_h5ad(folder / "cells.h5ad")
    adata.var_names = [*adata.var_names[:-3], "NEW1", "NEW2-AS1", "NEW3"]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    changes = {"model.gene_tokens": {"min_cells": 3}, "optimiser.max_steps": 2, "data.lengths": {}}
    model = run(tmp_path, tmp_path / "second", config(changes, start=first))
    assert set(model.genes) - set(first.genes) == {"NEW1", "NEW2-AS1", "NEW3"}
    tokens = load_tokens(model.path, local_files_only=True)
    assert tokens.count([" NEW1 NEW2-AS1 CD4 NEW3."]).tolist() == [5]
