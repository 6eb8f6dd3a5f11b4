"""Metrics of texts: BERTScore under a text encoder such as BioBERT, chrF, genes that a text names rightly."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.evaluation.metrics import MeanOver, Missing, metric
from cell2sen.evaluation.metrics.labels import paired

BIOBERT = "dmis-lab/biobert-v1.1"

Encoder = str | tuple[Any, Any]
"""A directory or hub id, or a pair ``(model, tokenizer)``."""


def bertscores(truth: Sequence[str], answer: Sequence[str], encoder: Encoder | None = None) -> NDArray[np.float64]:
    """BERTScore F1 of each text, float64 (texts,); 0 for an empty text. Equal pairs are computed once.

    Raises
    ------
    Missing
        No encoder was passed.
    ImportError
        torchmetrics is not installed.
    ValueError
        There are no texts, or not as many answers as truths.
    """
    if encoder is None:
        raise Missing("no text encoder; pass encoder= (a directory or hub id)")
    try:
        from torchmetrics.functional.text.bert import bert_score
    except ImportError as error:
        raise ImportError("BERTScore needs torchmetrics: pip install 'cell2sen[eval]'") from error
    truth, answer = paired(truth, answer)
    model, tokenizer = load_encoder(encoder) if isinstance(encoder, str) else encoder
    pairs = list(
        dict.fromkeys((str(a), str(t)) for t, a in zip(truth, answer, strict=True) if str(a).strip() and str(t).strip())
    )
    scores: dict[tuple[str, str], float] = {}
    # One pair per call: torchmetrics 1.9 sorts both sides by length and does not restore their order, so in a batch of
    # unequal lengths texts would be compared with those of other rows.
    limit = min(512, int(getattr(tokenizer, "model_max_length", 512)))
    for pair in pairs:
        score = bert_score(
            [pair[0]],
            [pair[1]],
            model=model,
            user_tokenizer=tokenizer,
            user_forward_fn=_last_layer,
            max_length=limit,
            truncation=True,
            verbose=False,
        )
        scores[pair] = float(np.asarray(score["f1"]))
    return np.array([scores.get((str(a), str(t)), 0.0) for t, a in zip(truth, answer, strict=True)])


def biobert_scores(truth: Sequence[str], answer: Sequence[str], encoder: Encoder = BIOBERT) -> NDArray[np.float64]:
    """BERTScore F1 of each text with BioBERT, float64 (texts,)."""
    return bertscores(truth, answer, encoder)


@metric(
    level="text",
    perfect=1.0,
    range=(0.0, 1.0),
    undefined="no encoder was passed",
    resampling=MeanOver(bertscores),
    shown="encoder",
)
def bertscore(truth: Sequence[str], answer: Sequence[str], encoder: Encoder) -> float:
    """BERTScore F1 of texts under an encoder, averaged over texts.

    Tokens are matched greedily by the cosine of their contextual vectors (last layer): recall R over the truth's
    tokens, precision P over the answer's, F1 = 2PR / (P + R); no idf, no rescaling (Zhang et al., ICLR 2020). Computed
    by torchmetrics. An empty answer scores 0. Scores of two encoders cannot be compared.

    Parameters
    ----------
    truth, answer
        Texts.
    encoder
        A directory or hub id, or a pair ``(model, tokenizer)``.
    """
    return float(np.mean(bertscores(truth, answer, encoder)))


@metric(
    level="text",
    perfect=1.0,
    range=(0.0, 1.0),
    undefined="BioBERT cannot be loaded",
    resampling=MeanOver(biobert_scores),
    shown="request",
)
def biobert_score(truth: Sequence[str], answer: Sequence[str], encoder: Encoder = BIOBERT) -> float:
    """BERTScore F1 with BioBERT v1.1 (Lee et al., Bioinformatics 2020), for texts about cells.

    As :func:`bertscore`, with ``dmis-lab/biobert-v1.1`` of the Hugging Face hub (downloaded if it is not cached), or a
    local directory with it.
    """
    return float(np.mean(biobert_scores(truth, answer, encoder)))


def chrf_scores(truth: Sequence[str], answer: Sequence[str]) -> NDArray[np.float64]:
    """ChrF of each text, float64 (texts,); 0 for an empty one. Equal pairs are computed once.

    Raises
    ------
    ImportError
        torchmetrics is not installed.
    ValueError
        There are no texts, or not as many answers as truths.
    """
    try:
        from torchmetrics.functional.text import chrf_score
    except ImportError as error:
        raise ImportError("chrF needs torchmetrics: pip install 'cell2sen[eval]'") from error
    truth, answer = paired(truth, answer)
    scores: dict[tuple[str, str], float] = {}
    for pair in dict.fromkeys((str(a), str(t)) for t, a in zip(truth, answer, strict=True)):
        if all(map(str.strip, pair)):
            # As in sacrebleu, n-grams that the shorter text is too short for do not count: equal texts score 1.
            order = min(6, *(len("".join(text.split())) for text in pair))
            score: Any = chrf_score([pair[0]], [[pair[1]]], n_char_order=order, n_word_order=0)
            scores[pair] = float(score)
    return np.array([scores.get((str(a), str(t)), 0.0) for t, a in zip(truth, answer, strict=True)])


@metric(
    level="free_text",
    perfect=1.0,
    range=(0.0, 1.0),
    undefined="there are no texts",
    resampling=MeanOver(chrf_scores),
)
def chrf(truth: Sequence[str], answer: Sequence[str]) -> float:
    """Agreement of texts (chrF) in pieces of 1 to 6 characters, averaged over texts (Popović, WMT 2015).

    F-score of character n-grams with recall weighted twice (β = 2), computed by torchmetrics. Needs no encoder, and
    measures wording more than meaning. An empty answer scores 0.
    """
    return float(np.mean(chrf_scores(truth, answer)))


def grounded_shares(named: Sequence[Collection[str]], expressed: Sequence[Collection[str]]) -> NDArray[np.float64]:
    """Share of the named genes that are expressed, for each answer, float64 (answers,); NaN if it names none."""
    shares = [
        len(set(genes) & set(cells)) / len(set(genes)) if genes else np.nan
        for genes, cells in zip(named, expressed, strict=True)
    ]
    return np.array(shares, dtype=np.float64)


@metric(
    level="named_genes",
    perfect=1.0,
    range=(0.0, 1.0),
    undefined="no answer names a gene of the data",
    shown="table",
)
def grounded_genes(named: Sequence[Collection[str]], expressed: Sequence[Collection[str]]) -> float:
    """Share of the genes named in an answer that its cells express, averaged over answers that name genes of the data.

    Genes that were not measured do not count. Answers without genes are left out, so that the metric measures whether
    a text is true of its cells, not how much it has: a faithfulness (Maynez et al., ACL 2020) of gene names.
    """
    shares = grounded_shares(named, expressed)
    return float(np.nanmean(shares)) if np.isfinite(shares).any() else float("nan")


def load_encoder(encoder: str) -> tuple[Any, Any]:
    """Model and tokenizer of a directory or hub id; safetensors only.

    Raises
    ------
    OSError
        The encoder is missing or incomplete, and cannot be downloaded.
    """
    from transformers import AutoModel, AutoTokenizer

    try:
        model = AutoModel.from_pretrained(encoder, use_safetensors=True, attn_implementation="eager")
        tokenizer = AutoTokenizer.from_pretrained(encoder)
    except (OSError, ValueError) as error:
        raise OSError(
            f"no text encoder {encoder!r}: it must be a directory or a hub id with model.safetensors, config.json and "
            f"a tokenizer ({str(error).splitlines()[0]})"
        ) from error
    return model.eval(), tokenizer


def _last_layer(model: Any, batch: Any) -> Any:
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
