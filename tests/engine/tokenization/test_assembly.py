"""Prompts assembled from pieces equal those whose text is tokenized."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from cell2sen.engine.tokenization import assembly
from cell2sen.engine.tokenization import gene_tokens as gene_tokenizer
from cell2sen.engine.tokenization.tokenizer import Tokenized, Tokens, fit
from cell2sen.prompt import Genes, Prompt
from cell2sen.sentences.gene_list import GeneList

KINDS = ["spm", "bytes", "genes", "whole"]
symbols = st.sampled_from(tiny.GENES) | st.text("ABCd-.19βé\u0301▁ <", min_size=1, max_size=6)
words = st.sampled_from(
    ["Cell", "sentence:", "{n_genes}", ".", " ", "  ", "\n", "▁", "<bos>", "<ctrl100>", "β", ", the", "4"]
)
texts = st.lists(words, max_size=6).map("".join)
gene_lists = st.lists(symbols, max_size=7).map(tuple)
befores = texts | texts.map(lambda text: text + "x: ")
afters = texts | st.sampled_from([".", ". The type is", " of", ""])
#: Between two cells: what templates have, and what cannot be cut.
betweens = afters | st.sampled_from([".\nCell 2: ", " ", "", ". ", " and a longer text: "])
cells = st.builds(lambda genes: Genes(symbols=genes, cell="c"), gene_lists)


def joined(before: str, lists: list[tuple[Genes, str]], after: str) -> Prompt:
    """A prompt of any number of cells."""
    return Prompt(segments=(before, *(segment for pair in lists for segment in pair), after))


prompts = st.builds(Prompt.of_cell, befores, gene_lists, afters)
prompts |= st.builds(joined, befores, st.lists(st.tuples(cells, betweens), max_size=20), afters)


def tokens(kind: str) -> Tokens:
    if kind != "whole":
        return tiny.tokens(kind)
    built = gene_tokenizer.build(tiny.GENES[:-1], [tiny.PROSE] * 3)
    return Tokens(built.backend_tokenizer, eos=[built.eos_token_id])


def same(result: Tokenized, expected: Tokenized) -> None:
    assert result.ids.tolist() == expected.ids.tolist()
    assert result.genes.tolist() == expected.genes.tolist()
    assert result.answer == expected.answer
    assert (result.ids.dtype, result.genes.dtype) == (np.int32, np.int64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_equal_to_the_text(kind: str) -> None:
    made = tokens(kind)

    @settings(max_examples=250, deadline=None, database=None)
    @given(st.lists(st.tuples(prompts, st.sampled_from(["", "", " T cell.", ".", "x y z", "\n a", " "])), max_size=5))
    def equal(rows: list[tuple[Prompt, str]]) -> None:
        named, answers = [prompt for prompt, _ in rows], [answer for _, answer in rows]
        expected = made._encode_whole(named, answers)
        for row, expected_row in zip(made.encode(named, answers), expected, strict=True):
            same(row, expected_row)
        lengths = [len(row) for row in made._encode_whole(named, [""] * len(rows))]
        assert made.lengths(named).tolist() == lengths

    equal()


def numbered(prompts: list[Prompt], order: np.random.Generator) -> list[Prompt]:
    """The same prompts with genes as ids into an array that has other symbols, too, and some twice."""
    listed = [*tiny.GENES[:5], *(gene for prompt in prompts for gene in prompt.genes)]
    symbols = np.array([*listed, "CD4"], dtype=object)[order.permutation(len(listed) + 1)]
    place = {symbol: number for number, symbol in enumerate(symbols.tolist())}

    def by_number(segment: str | Genes) -> str | Genes:
        if isinstance(segment, str):
            return segment
        ids = np.array([place[gene] for gene in segment.symbols], dtype=np.int32)
        return replace(segment, symbols=GeneList(ids, symbols))

    return [replace(prompt, segments=tuple(map(by_number, prompt.segments))) for prompt in prompts]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_numbered_genes_equal_the_text(kind: str) -> None:
    made = tokens(kind)
    order = np.random.default_rng(0)

    @settings(max_examples=250, deadline=None, database=None)
    @given(st.lists(st.tuples(prompts, st.sampled_from(["", "", " T cell.", ".", "x y z", "\n a", " "])), max_size=5))
    def equal(rows: list[tuple[Prompt, str]]) -> None:
        named, answers = [prompt for prompt, _ in rows], [answer for _, answer in rows]
        numbered_prompts = numbered(named, order)
        assert numbered_prompts == named
        expected = made._encode_whole(named, answers)
        # Some by number and some by name, as with prompts of users and of sentences in one call.
        mixed = [pair[row % 2] for row, pair in enumerate(zip(numbered_prompts, named, strict=True))]
        for cells in (numbered_prompts, mixed):
            for row, expected_row in zip(made.encode(cells, answers), expected, strict=True):
                same(row, expected_row)
        lengths = [len(row) for row in made._encode_whole(named, [""] * len(rows))]
        assert made.lengths(numbered_prompts).tolist() == lengths

    equal()


@pytest.mark.parametrize("kind", KINDS)
def test_numbered_genes_are_cut_alike(kind: str) -> None:
    made = tokens(kind)
    named = tiny.prompts(40)
    numbered_prompts = numbered(named, np.random.default_rng(0))
    reserved_tokens = [3] * len(named)
    context = int(made.lengths(named).mean())
    expected, lengths = fit(named, context=context, reserved_tokens=reserved_tokens, count=made.lengths)
    result, cut_lengths = fit(numbered_prompts, context=context, reserved_tokens=reserved_tokens, count=made.lengths)
    assert result == expected != named
    assert cut_lengths.tolist() == lengths.tolist()
    assert all(isinstance(prompt.genes, GeneList) for prompt in result)


def test_many_lists_of_symbols() -> None:
    made = tokens("spm")
    named = [prompt for prompt in tiny.prompts(6) for _ in range(3)]
    numbered_prompts = [numbered([prompt], np.random.default_rng(row))[0] for row, prompt in enumerate(named)]
    for _ in range(2):
        for row, expected_row in zip(
            made.encode(numbered_prompts), made._encode_whole(named, [""] * len(named)), strict=True
        ):
            same(row, expected_row)
        assert len(made._assembler._tables) <= assembly._TABLES


def test_numbered_genes_are_not_made_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokens("bytes")
    numbered_prompts = numbered(tiny.prompts(600), np.random.default_rng(0))
    expected = made.encode(numbered_prompts)
    monkeypatch.setattr(GeneList, "__iter__", lambda self: pytest.fail("strings were made"))
    monkeypatch.setattr(made, "_encode_whole", _none)
    for row, expected_row in zip(made.encode(numbered_prompts), expected, strict=True):
        same(row, expected_row)


def _none(cells: list[Prompt], answers: list[str]) -> list[Tokenized]:
    assert not cells, "the whole text was tokenized"
    return []


def tokenized(monkeypatch: pytest.MonkeyPatch, made: Tokens) -> list[str]:
    """Texts that are tokenized after this call."""
    texts: list[str] = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(made.tokenizer, name)

        def encode(self, text: str, **named: Any) -> Any:
            texts.append(text)
            return made.tokenizer.encode(text, **named)

        def encode_batch(self, batch: list[str], **named: Any) -> Any:
            texts.extend(batch)
            return made.tokenizer.encode_batch(batch, **named)

    monkeypatch.setattr(made._assembler, "_tokenizer", Watched())
    monkeypatch.setattr(made, "_encode_whole", _none)
    return texts


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_tokenized_twice(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokens(kind)
    cells = tiny.prompts(600, genes=(3, 50))
    expected = made._encode_whole(cells, [" T cell."] * 600)
    texts = tokenized(monkeypatch, made)
    for row, expected_row in zip(made.encode(cells, [" T cell."] * 600), expected, strict=True):
        same(row, expected_row)
    sentences = [text for text in texts if text.count(" ") > 15]
    assert len(sentences) < 60, "instructions with each number of genes, and the probes"
    texts.clear()
    made.encode(cells, [" T cell."] * 600)
    made.lengths(cells[:1])
    assert texts.count("A CD4") <= 1
    assert len(texts) < 10


def test_the_cache_of_pieces_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokens("bytes")
    monkeypatch.setattr(assembly, "_PIECES", 100)
    cells = tiny.prompts(900)
    for row, expected_row in zip(made.encode(cells), made._encode_whole(cells, [""] * 900), strict=True):
        same(row, expected_row)
    assert len(made._assembler._lengths) < 400


def unproven() -> Tokens:
    made = tiny.tokens("spm").tokenizer
    made.add_tokens(["4 C"])
    return Tokens(made, bos=made.token_to_id("<bos>"))


def test_one_warning_and_the_whole_text_without_proof(caplog: pytest.LogCaptureFixture) -> None:
    made = unproven()
    cell = Prompt.of_cell("Cell sentence: ", genes=("CD4", "CD8A", "B2M"), after=".")
    with caplog.at_level(logging.WARNING):
        assert made.encode([Prompt.of_cell("no genes")])
        assert not caplog.records
        for _ in range(2):
            [row] = made.encode([cell])
            assert made.lengths([cell]).tolist() == [len(row)]
            assert row.ids[1:].tolist() == made.ids([cell.text])[0]
    [record] = caplog.records
    assert record.name == "cell2sen.engine.tokenization.assembly"
    assert "tokenized, which is slower" in record.getMessage()
    assert "'4 C'" in record.getMessage()


def test_a_proof_that_fails_for_real_genes_is_not_used(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = unproven()
    monkeypatch.setattr("cell2sen.engine.tokenization.exactness._added_tokens", lambda added, mark: None)
    cells = [Prompt.of_cell("Cell sentence: ", genes=("B2M", "CD8A"), after=".")]
    cells += [Prompt.of_cell("Cell sentence: ", genes=("CD4", "CD8A", gene), after=".") for gene in tiny.GENES]
    with caplog.at_level(logging.WARNING):
        for row, expected_row in zip(made.encode(cells), made._encode_whole(cells, [""] * len(cells)), strict=True):
            same(row, expected_row)
    [record] = caplog.records
    assert "other ids alone than within a sentence" in record.getMessage()
    assert not made._assembler.exact


def test_genes_that_the_proof_does_not_cover_are_tokenized_with_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokens("spm")
    cells = [
        Prompt.of_cell("Cells: ", genes=genes) for genes in (("CD4", "A B"), ("CD4", "A▁"), ("CD4", "B2M"), ("", "B2M"))
    ]
    whole: list[str] = []
    original = made._encode_whole
    monkeypatch.setattr(
        made, "_encode_whole", lambda cells, answers: (whole.extend(p.text for p in cells), original(cells, answers))[1]
    )
    result = made.encode(cells)
    assert whole == ["Cells: CD4 A B", "Cells: CD4 A▁", "Cells:  B2M"]
    for row, expected_row in zip(result, original(cells, [""] * 4), strict=True):
        same(row, expected_row)


def test_a_tokenizer_that_leaves_an_instruction_without_tokens() -> None:
    # Then the ids of the instruction do not show whether it begins with bos.
    model = tokenizers.models.BPE(vocab={" ": 0, "C": 1, "D": 2, "4": 3, "<": 4}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Split(tokenizers.Regex(gene_tokenizer.WORD), "isolated")]
    )
    made = Tokens(tokenizer, bos=0)
    cell = Prompt.of_cell("xyz ", genes=("CD4", "D4"))
    [result], [expected] = made.encode([cell]), made._encode_whole([cell], [""])
    same(result, expected)
    assert result.ids.tolist() == [0, 1, 2, 3, 0, 2, 3]
