"""One token per gene, and every other text exactly."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from training_cells import TYPES

from cell2sen.engine.tokenization import gene_tokens as gene_tokenizer
from cell2sen.engine.tokenization.tokenizer import load_tokens

GENES = ["CD4", "CD44", "HLA-DRA", "MT-CO1", "RP11-206L10.9", "RP11-34P13.7", "TGFΒ1", "1700001C02Rik", "A", "NKX2-5"]
TEXTS = ["Below are the {n_genes} most expressed genes.\nCell sentence: {genes}.\nThe type of this cell is:"]
TEXTS += [f" {label}." for label in TYPES] + [f" {number}" for number in range(100)]


@functools.cache
def built() -> transformers.PreTrainedTokenizerFast:
    return gene_tokenizer.build(GENES, TEXTS)


@pytest.fixture(scope="module")
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    return built()


def ids(tokenizer: transformers.PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text)["input_ids"]


@pytest.mark.parametrize("gene", GENES)
def test_a_gene_is_one_token_at_each_place(tokenizer: transformers.PreTrainedTokenizerFast, gene: str) -> None:
    [token] = ids(tokenizer, " " + gene)
    full_stop = ids(tokenizer, ".")
    assert ids(tokenizer, f" {gene}.") == [token, *full_stop]
    assert ids(tokenizer, f" {gene} {gene}.\n") == [token, token, *full_stop, *ids(tokenizer, "\n")]
    assert ids(tokenizer, f" {gene}, {gene}") == [token, *ids(tokenizer, ","), token]


def test_genes_have_tokens_of_their_own(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    assert len({tuple(ids(tokenizer, " " + gene)) for gene in GENES}) == len(GENES)


def test_a_word_that_begins_like_a_gene_is_not_that_gene(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    [cd4] = ids(tokenizer, " CD4")
    assert cd4 not in ids(tokenizer, " CD4X CD4+ T xCD4")
    assert len(ids(tokenizer, " CD4X")) > 1


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@example(" CD4 CD44.\n\n  HLA-DRA ,.;: T-cell\t… <eos> é e\u0301 🧬")
@settings(max_examples=150, deadline=None)
def test_every_text_is_decoded_exactly(text: str) -> None:
    made = built()
    assert made.decode(made(text)["input_ids"], clean_up_tokenization_spaces=False) == text


def test_building_is_deterministic(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    again = gene_tokenizer.build(GENES, TEXTS)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_read_from_disk_it_is_the_same(tokenizer: transformers.PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    text = "Below are the 3 most expressed genes: CD4 RP11-206L10.9 TGFΒ1. T cell, naïve +\n🧬"
    read = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert ids(read, text) == ids(tokenizer, text)
    assert (read.eos_token_id, read.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    tokens = load_tokens(str(tmp_path), local_files_only=True)
    assert tokens.ids([text]) == [ids(tokenizer, text)]
    assert tokens.bos is None
    assert tokens.eos == {tokenizer.eos_token_id}
    assert tokens.known([*GENES, "two words"]).tolist() == [True] * len(GENES) + [False]
