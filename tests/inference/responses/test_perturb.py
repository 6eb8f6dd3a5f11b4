from __future__ import annotations

import logging

import pytest
from cells import GENES
from sessions import begin, sentences_of

from cell2sen.backend import Sampling
from cell2sen.inference.responses.perturb import predict_sentences

GREEDY = Sampling(max_new_tokens=20)


def test_answers_are_as_long_as_their_prompts() -> None:
    session = begin("perturb", data=sentences_of("CD4 LYZ B2M", "CD4", "LYZ B2M ACTB FTL"))
    predicted = predict_sentences(session, [{"perturbation": "x"}] * 3, sampling=GREEDY, n_genes=3)
    assert [len(answer.genes) for answer in predicted.answers] == [3, 1, 3]
    assert predicted.controls == [["CD4", "LYZ", "B2M"], ["CD4"], ["LYZ", "B2M", "ACTB"]]
    with pytest.raises(ValueError, match="n_genes must be at least 1"):
        predict_sentences(session, [{"perturbation": "x"}] * 3, sampling=GREEDY, n_genes=0)


def test_rows_without_slots_or_genes_are_skipped() -> None:
    session = begin("perturb", data=sentences_of("CD4 LYZ", "", "B2M", "FTL"))
    slots = [{"perturbation": "x"}, {"perturbation": "x"}, None, {"perturbation": "y"}]
    predicted = predict_sentences(session, slots, sampling=GREEDY)
    assert predicted.rows.tolist() == [0, 3]
    with pytest.raises(ValueError, match="none of the cells to predict"):
        predict_sentences(session, [None, {"perturbation": "x"}, None, None], sampling=GREEDY)


def test_vocabulary_bounds_guided_answers() -> None:
    session = begin("perturb", data=sentences_of("CD4 LYZ", "B2M"))
    slots = [{"perturbation": "x"}] * 2
    wide = predict_sentences(session, slots, sampling=GREEDY, vocabulary=GENES)
    assert {gene for answer in wide.answers for gene in answer.genes} <= set(GENES)
    own = predict_sentences(session, slots, sampling=GREEDY)
    assert {gene for answer in own.answers for gene in answer.genes} <= {"CD4", "LYZ", "B2M"}
    with pytest.raises(ValueError, match="1 to 1 genes"):
        predict_sentences(session, slots, sampling=GREEDY, vocabulary=["CD4"])


def test_n_genes_beyond_the_sentences_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        session = begin("perturb", max_genes=4)
        predict_sentences(session, [{"perturbation": "x"}] * 6, sampling=GREEDY, n_genes=9)
    assert "4 genes at most, so n_genes=9 has no effect beyond that" in caplog.text
