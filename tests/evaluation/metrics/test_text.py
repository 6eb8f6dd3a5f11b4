"""BERTScore, against its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cell2sen.evaluation.metrics import Missing
from cell2sen.evaluation.metrics import text as bertscore

pytest.importorskip("torchmetrics")

WORDS = [f"w{number}" for number in range(30)]


def f1(truth: str, answer: str, model: Any, tokenizer: Any) -> float:
    """The definition, one pair of texts at a time, without special tokens."""
    import torch

    def vectors(text: str) -> np.ndarray:
        coded = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            hidden = (
                model(input_ids=coded["input_ids"], attention_mask=coded["attention_mask"])
                .last_hidden_state[0, 1:-1]
                .numpy()
            )
        return hidden / np.linalg.norm(hidden, axis=1, keepdims=True)

    similarity = vectors(truth) @ vectors(answer).T
    recall, precision = similarity.max(axis=1).mean(), similarity.max(axis=0).mean()
    return 2 * precision * recall / (precision + recall)


def test_bertscore_equals_its_definition_whatever_the_lengths(encoder: Path) -> None:
    rng = np.random.default_rng(0)
    truth = [" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(8)]
    answer = [" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(8)]
    loaded = bertscore.load_encoder(str(encoder))
    scores = bertscore.bertscores(truth, answer, loaded)
    np.testing.assert_allclose(scores, [f1(t, a, *loaded) for t, a in zip(truth, answer, strict=True)], atol=1e-5)
    # In a batch, torchmetrics pairs texts wrongly if their lengths differ: scores must not depend on the order.
    np.testing.assert_allclose(bertscore.bertscores(truth[::-1], answer[::-1], loaded), scores[::-1], atol=1e-6)
    assert bertscore.bertscore(truth, answer, str(encoder)) == pytest.approx(scores.mean())


def test_equal_and_empty_texts(encoder: Path) -> None:
    scores = bertscore.bertscores(["w1 w2", "w1 w2", "w3"], ["w1 w2", "", "w4"], str(encoder))
    assert scores[0] == pytest.approx(1, abs=1e-6)
    assert scores[1] == 0
    assert 0 <= scores[2] < 1


def test_long_texts_are_truncated_to_the_limit_of_the_encoder(encoder: Path) -> None:
    text = " ".join(WORDS * 3)
    assert bertscore.bertscore([text], [text], str(encoder)) == pytest.approx(1, abs=1e-6)


def test_missing_encoder_is_named() -> None:
    with pytest.raises(OSError, match="no text encoder '/nowhere/biobert': it must be a directory or a hub id"):
        bertscore.load_encoder("/nowhere/biobert")


def test_biobert_is_the_default_of_its_score(monkeypatch: pytest.MonkeyPatch, encoder: Path) -> None:
    loaded = []

    def load(name: str) -> Any:
        loaded.append(name)
        raise OSError("no network")

    monkeypatch.setattr(bertscore, "load_encoder", load)
    with pytest.raises(OSError, match="no network"):
        bertscore.biobert_score(["w1"], ["w1"])
    assert loaded == ["dmis-lab/biobert-v1.1"]


def test_biobert_score_is_the_score_of_that_encoder(encoder: Path) -> None:
    """With a local directory, as where BioBERT was stored beforehand."""
    truth, answer = ["w1 w2 w3", "w4"], ["w1 w5", "w4 w6 w7"]
    loaded = bertscore.load_encoder(str(encoder))
    expected = np.mean([f1(t, a, *loaded) for t, a in zip(truth, answer, strict=True)])
    assert bertscore.biobert_score(truth, answer, str(encoder)) == pytest.approx(expected, abs=1e-5)


def test_no_encoder_is_a_reason_not_an_error() -> None:
    with pytest.raises(Missing, match="no text encoder; pass encoder="):
        bertscore.bertscores(["w1"], ["w1"])


def test_character_f_of_equal_and_empty_texts() -> None:
    assert bertscore.chrf_scores(["a b", "a b", "a"], ["a b", "", "x"]).tolist() == pytest.approx([1, 0, 0])


def test_answers_that_name_no_gene_do_not_count() -> None:
    assert bertscore.grounded_genes([{"CD4", "LYZ"}, set()], [{"LYZ"}, {"LYZ"}]) == 0.5
    assert np.isnan(bertscore.grounded_genes([set()], [{"LYZ"}]))
