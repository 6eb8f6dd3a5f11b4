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
_made: dict[str, Tokens] = {}


def tokens(kind: str) -> Tokens:
    if kind != "whole":
        return tiny.tokens(kind)
    built = gene_tokenizer.build(tiny.GENES[:-1], [tiny.PROSE] * 3)
    return Tokens(built.backend_tokenizer, eos=[built.eos_token_id])


def same(found: Tokenized, wanted: Tokenized) -> None:
    assert found.ids.tolist() == wanted.ids.tolist()
    assert found.genes.tolist() == wanted.genes.tolist()
    assert found.answer == wanted.answer
    assert (found.ids.dtype, found.genes.dtype) == (np.int32, np.int64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_equal_to_the_text(kind: str) -> None:
    made = tokens(kind)

    @settings(max_examples=250, deadline=None, database=None)
    @given(st.lists(st.tuples(prompts, st.sampled_from(["", "", " T cell.", ".", "x y z", "\n a", " "])), max_size=5))
    def equal(rows: list[tuple[Prompt, str]]) -> None:
        asked, answers = [prompt for prompt, _ in rows], [answer for _, answer in rows]
        wanted = made._encode_whole(asked, answers)
        for found, one in zip(made.encode(asked, answers), wanted, strict=True):
            same(found, one)
        lengths = [len(row) for row in made._encode_whole(asked, [""] * len(rows))]
        assert made.lengths(asked).tolist() == lengths

    equal()


def numbered(prompts: list[Prompt], order: np.random.Generator) -> list[Prompt]:
    """The same prompts with their genes as numbers in a list that has other symbols, too, and some twice."""
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
        asked = numbered(named, order)
        assert asked == named
        wanted = made._encode_whole(named, answers)
        # Some by number and some by name, as prompts of users stand beside those of sentences.
        mixed = [each[row % 2] for row, each in enumerate(zip(asked, named, strict=True))]
        for some in (asked, mixed):
            for found, one in zip(made.encode(some, answers), wanted, strict=True):
                same(found, one)
        lengths = [len(row) for row in made._encode_whole(named, [""] * len(rows))]
        assert made.lengths(asked).tolist() == lengths

    equal()


@pytest.mark.parametrize("kind", KINDS)
def test_numbered_genes_are_cut_alike(kind: str) -> None:
    made = tokens(kind)
    named = tiny.prompts(40)
    asked = numbered(named, np.random.default_rng(0))
    room = [3] * len(named)
    context = int(made.lengths(named).mean())
    wanted, lengths = fit(named, context=context, room=room, count=made.lengths)
    found, found_lengths = fit(asked, context=context, room=room, count=made.lengths)
    assert found == wanted != named
    assert found_lengths.tolist() == lengths.tolist()
    assert all(isinstance(prompt.genes, GeneList) for prompt in found)


def test_many_lists_of_symbols() -> None:
    made = tokens("spm")
    named = [prompt for prompt in tiny.prompts(6) for _ in range(3)]
    asked = [numbered([prompt], np.random.default_rng(row))[0] for row, prompt in enumerate(named)]
    for _ in range(2):
        for found, one in zip(made.encode(asked), made._encode_whole(named, [""] * len(named)), strict=True):
            same(found, one)
        assert len(made._assembler._tables) <= assembly._TABLES


def test_numbered_genes_need_no_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokens("bytes")
    asked = numbered(tiny.prompts(600), np.random.default_rng(0))
    wanted = made.encode(asked)
    monkeypatch.setattr(GeneList, "__iter__", lambda self: pytest.fail("strings were made"))
    monkeypatch.setattr(made, "_encode_whole", _none)
    for found, one in zip(made.encode(asked), wanted, strict=True):
        same(found, one)


def _none(asked: list[Prompt], answers: list[str]) -> list[Tokenized]:
    assert not asked, "the whole text was tokenized"
    return []


def tokenized(monkeypatch: pytest.MonkeyPatch, made: Tokens) -> list[str]:
    """Every text that is tokenized from now on."""
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
    wanted = made._encode_whole(cells, [" T cell."] * 600)
    texts = tokenized(monkeypatch, made)
    for found, one in zip(made.encode(cells, [" T cell."] * 600), wanted, strict=True):
        same(found, one)
    sentences = [text for text in texts if text.count(" ") > 15]
    assert len(sentences) < 60, "instructions with each number of genes, and the probes"
    texts.clear()
    made.encode(cells, [" T cell."] * 600)
    made.lengths(cells[:1])
    assert texts.count("A CD4") <= 1
    assert len(texts) < 10


def test_pieces_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokens("bytes")
    monkeypatch.setattr(assembly, "_PIECES", 100)
    cells = tiny.prompts(900)
    for found, one in zip(made.encode(cells), made._encode_whole(cells, [""] * 900), strict=True):
        same(found, one)
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


def test_a_proof_that_fails_in_practice_is_found(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = unproven()
    monkeypatch.setattr("cell2sen.engine.tokenization.exactness._added_tokens", lambda added, mark: None)
    cells = [Prompt.of_cell("Cell sentence: ", genes=("B2M", "CD8A"), after=".")]
    cells += [Prompt.of_cell("Cell sentence: ", genes=("CD4", "CD8A", gene), after=".") for gene in tiny.GENES]
    with caplog.at_level(logging.WARNING):
        for found, one in zip(made.encode(cells), made._encode_whole(cells, [""] * len(cells)), strict=True):
            same(found, one)
    [record] = caplog.records
    assert "other ids than within a sentence" in record.getMessage()
    assert not made._assembler.exact


def test_strange_genes_take_the_long_way_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokens("spm")
    cells = [
        Prompt.of_cell("Cells: ", genes=genes) for genes in (("CD4", "A B"), ("CD4", "A▁"), ("CD4", "B2M"), ("", "B2M"))
    ]
    whole: list[str] = []
    original = made._encode_whole
    monkeypatch.setattr(
        made, "_encode_whole", lambda asked, answers: (whole.extend(p.text for p in asked), original(asked, answers))[1]
    )
    found = made.encode(cells)
    assert whole == ["Cells: CD4 A B", "Cells: CD4 A▁", "Cells:  B2M"]
    for row, one in zip(found, original(cells, [""] * 4), strict=True):
        same(row, one)


def test_a_tokenizer_that_leaves_an_instruction_without_tokens() -> None:
    # Whether the text is opened already cannot be told from the instruction then.
    model = tokenizers.models.BPE(vocab={" ": 0, "C": 1, "D": 2, "4": 3, "<": 4}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Split(tokenizers.Regex(gene_tokenizer.WORD), "isolated")]
    )
    made = Tokens(tokenizer, bos=0)
    cell = Prompt.of_cell("xyz ", genes=("CD4", "D4"))
    [found], [wanted] = made.encode([cell]), made._encode_whole([cell], [""])
    same(found, wanted)
    assert found.ids.tolist() == [0, 1, 2, 3, 0, 2, 3]
