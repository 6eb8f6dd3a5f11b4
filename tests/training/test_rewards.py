"""Rewards of written sentences, beside values by hand and a slow twin."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from cell2sen.training import rewards
from cell2sen.training.rewards import Answer

TRUTH = list("ABCDEF")


def answer(written: str, **changes: object) -> Answer:
    return Answer(**{"written": list(written), "truth": TRUTH, "control": list("FEDCBA"), **changes})


def slow_tau(written: list[str], truth: list[str], genes: list[str]) -> float:
    """Tau over all pairs of genes, in a loop; missing genes share the last rank."""
    place = [{gene: s.index(gene) if gene in s else 99 for gene in genes} for s in (truth, written)]
    signs = [[np.sign(p[b] - p[a]) for a, b in itertools.combinations(genes, 2)] for p in place]
    x, y = map(np.array, signs)
    return float((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()))


class TestKendallTau:
    def test_perfect_and_reversed(self) -> None:
        assert rewards.kendall_tau(answer("ABCDEF")) == pytest.approx(1)
        assert rewards.kendall_tau(answer("FEDCBA")) == pytest.approx(-1)

    @pytest.mark.parametrize("genes", [[], ["A", "C", "F", "X"]])
    def test_equals_the_slow_twin(self, genes: list[str]) -> None:
        generator = np.random.default_rng(0)
        for _ in range(30):
            written = list(generator.permutation(list("ABCDEFGH"))[:5])
            wanted = genes or sorted({*written, *TRUTH})
            tau = rewards.kendall_tau(answer("".join(written), genes=genes))
            assert tau == pytest.approx(slow_tau(written, TRUTH, wanted))

    def test_only_the_gene_set_counts(self) -> None:
        assert rewards.kendall_tau(answer("AXYZBC", genes=["A", "B", "C"])) == pytest.approx(1)
        assert rewards.kendall_tau(answer("XYZ", genes=["A", "B"])) == 0, "no gene of the set"
        assert math.isnan(rewards.kendall_tau(answer("ABC", genes=["X", "Y"])))


def test_overlap() -> None:
    assert rewards.overlap(answer("FEDCBA")) == 1
    assert rewards.overlap(answer("ABCX")) == pytest.approx(3 / 7)
    assert rewards.overlap(answer("ABXY", genes=["A", "B", "X", "D"])) == pytest.approx(2 / 4)
    assert rewards.overlap(answer("XYZ")) == 0
    assert math.isnan(rewards.overlap(answer("ABC", genes=["Z"])))


class TestChange:
    def test_of_the_truth_is_one_and_of_the_opposite_is_negative(self) -> None:
        assert rewards.change(answer("ABCDEF")) == pytest.approx(1)
        assert rewards.change(answer("FEDCBA")) == 0, "a copy of the control changes nothing"
        back = answer("EFDCAB", control=list("ABCDEF"), truth=list("BACDFE"))
        assert rewards.change(back) < 0.5

    def test_is_the_correlation_of_logarithms_of_ranks(self) -> None:
        genes = list("ABCDEF")
        before, truth, written = ([-math.log(1 + s.index(g)) for g in genes] for s in ("FEDCBA", "ABCDEF", "CABDFE"))
        expected = np.corrcoef(np.subtract(truth, before), np.subtract(written, before))[0, 1]
        assert rewards.change(answer("CABDFE")) == pytest.approx(expected)

    def test_without_control_or_change_there_is_none(self) -> None:
        assert math.isnan(rewards.change(answer("ABC", control=[])))
        assert math.isnan(rewards.change(answer("ABC", control=TRUTH)))


def test_strength_ends_at_zero_where_a_sentence_ends() -> None:
    values = rewards.strength(["A", "B", "C"], ["C", "A", "B", "X"])
    np.testing.assert_allclose(values, np.log([4 / 3, 4, 2, 1]))


def test_validity_counts_repeated_genes_and_uniqueness_does_not() -> None:
    repeated = answer("ABC", n_words=6, n_unknown=1)
    assert rewards.validity(repeated) == pytest.approx(5 / 6)
    assert rewards.uniqueness(repeated) == pytest.approx(3 / 5)
    for empty in (answer("", n_words=0), answer("", n_words=2, n_unknown=2)):
        assert rewards.validity(empty) == rewards.uniqueness(empty) == 0


class TestEmbedding:
    @staticmethod
    def embed(sentences: list[list[str]]) -> np.ndarray:
        return np.array([[sentence.count(letter) for letter in "ABCDEF"] for sentence in sentences], dtype=np.float32)

    def test_is_minus_the_relative_distance(self) -> None:
        distances = rewards.embedding([answer("ABCDEF"), answer("ABC"), answer("ABX", genes=["A", "B"])], self.embed)
        assert distances == pytest.approx([0, -math.sqrt(3 / 6), 0])

    def test_needs_an_embedder(self) -> None:
        with pytest.raises(ValueError, match="'embedding' needs a model"):
            rewards.score(["embedding"], [answer("A")])


def test_all_rewards_at_once() -> None:
    answers = [answer("ABCDEF", n_words=6), answer("FEDXYZ", n_words=8, n_unknown=1)]
    scores = rewards.score(list(rewards.REWARDS), answers, TestEmbedding.embed)
    assert scores.shape == (2, len(rewards.REWARDS))
    np.testing.assert_allclose(scores[0], [1, 1, 1, 1, 1, 0], atol=1e-9)
    assert (scores[1] < scores[0]).all()
    with pytest.raises(ValueError, match=r"no rewards \['f1'\]; available: \['kendall_tau'"):
        rewards.score(["f1"], answers)
