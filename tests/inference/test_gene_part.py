"""Gene part of embeddings: both parts by their formula, each cell alone, the file, choice of parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from letters import GENES, sentences_of

from cell2sen.inference.gene_part import WEIGHT, GenePart, Scaling, check_parts, load_gene_part
from cell2sen.model import Model
from cell2sen.sentences.gene_space import GeneSpace, rank_weights

CELLS = ("ABCDE", "EDCBA", "CA", "", "BD")


@pytest.fixture(scope="module")
def part() -> GenePart:
    weights = sp.random(40, 5, density=0.7, random_state=0, format="csr")
    network = Scaling.of(np.random.default_rng(0).normal(3, 2, (40, 4)))
    return GenePart.of(GeneSpace.of(weights, GENES, 3), weights, network)


def test_directions_are_divided_by_the_root_of_their_deviation(part: GenePart) -> None:
    weights = sp.random(40, 5, density=0.7, random_state=0, format="csr")
    features = GeneSpace.of(weights, GENES, 3).features(weights)
    expected = features / np.sqrt(features.std(axis=0))
    found = part.space.features(weights)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(part.genes(found), axis=1).mean() == pytest.approx(1, abs=1e-5)


def test_scaled_vectors_have_mean_zero_and_mean_norm_one() -> None:
    vectors = np.random.default_rng(0).normal(5, 3, (50, 4))
    found = Scaling.of(vectors)(vectors)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
    assert np.linalg.norm(found, axis=1).mean() == pytest.approx(1, abs=1e-5)
    assert (Scaling.of(np.ones((5, 2)))(np.ones((5, 2))) == 0).all()


def test_vector_is_the_network_part_and_the_projected_ranks(part: GenePart) -> None:
    sentences = sentences_of(*CELLS)
    network = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    found = part.vectors(sentences, network)
    features = rank_weights(sentences, GENES).toarray() @ part.space.vectors
    expected = np.hstack(
        [
            (network - part.network.centre) * part.network.factor,
            WEIGHT * (features - part.genes.centre) * part.genes.factor,
        ]
    )
    has_genes = np.array([True, True, True, False, True])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[has_genes], expected[has_genes], rtol=1e-4, atol=1e-5)
    assert np.isnan(found[3, 4:]).all()
    np.testing.assert_array_equal(part.vectors(sentences, None), found[:, 4:])


def test_a_cell_does_not_depend_on_others(part: GenePart) -> None:
    whole = part.vectors(sentences_of(*CELLS), None)
    for row, cell in enumerate(CELLS):
        np.testing.assert_array_equal(part.vectors(sentences_of(cell), None), whole[[row]])


def test_file(part: GenePart, tmp_path: Path) -> None:
    model = Model(name="own", path=str(tmp_path))
    assert load_gene_part(model) is None
    part.write(tmp_path)
    read = load_gene_part(model)
    assert read is not None
    sentences, network = sentences_of(*CELLS), np.ones((5, 4), dtype=np.float32)
    np.testing.assert_allclose(read.vectors(sentences, network), part.vectors(sentences, network), rtol=0.01, atol=2e-3)


def test_parts_of_a_model(part: GenePart, tmp_path: Path) -> None:
    model = Model(name="own", path=str(tmp_path))
    assert check_parts(None, model, is_default=True) == ("network",)
    with pytest.raises(ValueError, match=r"own has no gene part of embeddings: train it with card\.gene_part"):
        check_parts("genes", model, is_default=True)
    part.write(tmp_path)
    assert check_parts(None, model, is_default=True) == ("network", "genes")
    assert check_parts(None, model, is_default=False) == ("network",)
    assert check_parts(["genes", "network"], model, is_default=True) == ("network", "genes")
    assert check_parts("genes", model, is_default=False) == ("genes",)
    wrong: Any
    for wrong in ("cells", ["genes", "cells"], []):
        with pytest.raises(ValueError, match="parts must be among"):
            check_parts(wrong, model, is_default=True)
    with pytest.raises(ValueError, match="leave out pooling and hidden_layer"):
        check_parts(["network", "genes"], model, is_default=False)
