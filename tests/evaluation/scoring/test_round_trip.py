"""Expression after a round trip through sentences."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from experiment import REAL, own_prediction

from cell2sen.evaluation.inputs import read
from cell2sen.evaluation.scoring.round_trip import RoundTrip, round_trip_of
from cell2sen.sentences.rank_fit import RankFit

FIT = RankFit(slope=-0.8, intercept=2.5, r_squared=0.9)


def test_each_gene_gets_the_value_of_its_rank() -> None:
    block = sp.csr_matrix(np.array([[0.0, 3, 1, 3, 2], [0, 0, 0, 0, 0], [5, 0, 0, 0, 0]]))
    made = RoundTrip(fit=FIT, n_genes=3)(block).toarray()
    by_rank = FIT.expression(np.arange(3)) * np.log(10.0)
    # Gene 1 before gene 3, which ties with it; gene 2 is beyond the sentence's length.
    np.testing.assert_allclose(made[0], [0, by_rank[0], 0, by_rank[1], by_rank[2]], rtol=1e-6)
    assert not made[1].any()
    np.testing.assert_allclose(made[2], [by_rank[0], 0, 0, 0, 0], rtol=1e-6)


def test_fit_and_length_come_from_the_prediction() -> None:
    predicted = own_prediction(REAL[REAL.obs["drug"] == "control"])
    assert round_trip_of(read(predicted, "predicted")) is None
    predicted.uns["cell2sen"]["perturb"]["fit"] = {"slope": -0.8, "intercept": 2.5, "r_squared": 0.9}
    cells = read(predicted, "predicted")
    round_trip = round_trip_of(cells)
    assert round_trip is not None
    assert round_trip.fit == FIT
    assert round_trip.n_genes == int(np.median(predicted.X.getnnz(axis=1)))
