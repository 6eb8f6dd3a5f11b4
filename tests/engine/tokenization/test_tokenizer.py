"""Genes of tokens, a single beginning-of-text token, and prompts cut to the context."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from cell2sen.engine.tokenization.tokenizer import Tokenized, Tokens, common_length, fit, load_tokens, pad
from cell2sen.prompt import Prompt

KINDS = ["spm", "bytes", "genes"]
genes = st.lists(st.sampled_from(tiny.GENES) | st.text("ABCde-.19βé", min_size=1, max_size=9), max_size=12)
texts = st.text(st.sampled_from("Cell sentence: {n_genes} .\nβ🧬"), max_size=12)


@pytest.fixture(scope="module", params=KINDS)
def tokens(request: pytest.FixtureRequest) -> Tokens:
    return tiny.tokens(request.param)


@settings(max_examples=150, deadline=None)
@given(texts, genes, texts, st.sampled_from(KINDS))
def test_genes_of_tokens_are_those_whose_characters_they_cover(
    before: str, symbols: list[str], after: str, kind: str
) -> None:
    made = tiny.tokens(kind)
    prompt = Prompt.of_cell(before, genes=tuple(symbols), after=after)
    [row] = made.encode([prompt])
    encoding = made.tokenizer.encode(prompt.text, add_special_tokens=False)
    opening = [] if made.bos is None else [made.bos]
    assert row.ids.tolist() == opening + encoding.ids
    assert row.answer == len(row) == len(row.genes)
    assert row.genes[: len(opening)].tolist() == [-1] * len(opening)
    for (start, stop), gene in zip(encoding.offsets, row.genes[len(opening) :], strict=True):
        # with the space before each gene
        spans = [(a - prompt.text[:a][-1:].isspace(), b) for a, b in prompt.spans]
        covered = [place for place, (a, b) in enumerate(spans) if max(a, start) < min(b, stop)]
        assert gene == (covered[0] if covered else -1)


def test_every_gene_has_its_tokens(tokens: Tokens) -> None:
    prompt = Prompt.of_cell("The {n_genes} genes: ", genes=tuple(tiny.GENES), after=". CD4 is a gene")
    [row] = tokens.encode([prompt])
    for gene, symbol in enumerate(tiny.GENES):
        assert tokens.text(row.ids[row.genes == gene].tolist()).strip() == symbol
    assert (np.diff(np.flatnonzero(row.genes >= 0)) == 1).all(), "nothing between the genes"
    assert (row.genes[-3:] == -1).all(), "a symbol in the instruction is no gene of the cell"


def test_answers_are_tokenized_with_their_prompt(tokens: Tokens) -> None:
    prompt = Prompt.of_cell("Cell sentence: ", genes=("CD4", "B2M"), after=". The type is")
    [alone], [joined] = tokens.encode([prompt]), tokens.encode([prompt], [" a T cell."])
    assert joined.ids[: joined.answer].tolist() == alone.ids.tolist()
    assert joined.genes[: joined.answer].tolist() == alone.genes.tolist()
    assert (joined.genes[joined.answer :] == -1).all()
    assert tokens.text(joined.ids[joined.answer :].tolist()) == " a T cell."


def test_a_token_across_the_end_of_the_prompt_belongs_to_the_answer() -> None:
    made = tiny.tokens("bytes")
    [row] = made.encode([Prompt.of_cell("Cell sentence: MA")], ["LAT1"])
    assert made.text(row.ids[row.answer :].tolist()) == " MALAT1"


def test_parts_of_a_row() -> None:
    row = Tokenized(ids=np.arange(6), find_genes=lambda: np.arange(6) - 2, answer=4)
    assert len(row) == 6
    for part, ids, answer in (
        (slice(0, 3), [0, 1, 2], 3),
        (slice(2, None), [2, 3, 4, 5], 2),
        (slice(None, -1), [0, 1, 2, 3, 4], 4),
        (slice(5, None), [5], 0),
        (slice(6, None), [], 0),
    ):
        assert row[part].ids.tolist() == ids
        assert row[part].genes.tolist() == [number - 2 for number in ids]
        assert row[part].answer == answer


def test_bos_is_there_once() -> None:
    made = tiny.tokens("spm")
    for text in ("CD4", "<bos>CD4"):
        [row] = made.encode([Prompt.of_cell(text)])
        assert row.ids.tolist().count(made.bos) == 1
        assert row.ids[0] == made.bos
        assert made.lengths([Prompt.of_cell(text)]).tolist() == [len(row)]
    assert made.count(["CD4"]).tolist() == [made.lengths([Prompt.of_cell("CD4")])[0] - 1]


def test_more_texts_than_are_held_at_a_time() -> None:
    made = tiny.tokens("bytes")
    texts = [f"CD4 {number}" for number in range(700)]
    assert made.count(texts).tolist() == [len(made.ids([text])[0]) for text in texts]
    rows = made.encode([Prompt.of_cell(text) for text in texts])
    assert [made.text(row.ids.tolist()) for row in rows] == texts


def test_known(tokens: Tokens) -> None:
    result = tokens.known(["CD4", "CD44", "RP11-34P13.7", "TGFΒ1", "", "CD 4", " CD4", "CD4\n", "XYZ"])
    anything = tokens.unk is None or tokens.tokenizer.token_to_id("<0x00>") is not None
    assert result.tolist() == [True] * 4 + [False] * 4 + [anything]
    assert result.dtype == bool
    assert tokens.known([]).shape == (0,)


def test_unknown_characters_that_vanish_are_not_known() -> None:
    # A BPE without bytes and without an unknown token leaves them out: the ids of "CDβ4" are those of "CD4".
    model = tokenizers.models.BPE(vocab={"C": 0, "D": 1, "4": 2, " ": 3}, merges=[])
    made = Tokens(tokenizers.Tokenizer(model))
    made.tokenizer.decoder = tokenizers.decoders.Fuse()
    assert made.ids([" CD4", " CDβ4"]) == [[3, 0, 1, 2]] * 2
    assert made.known(["CD4", "CDβ4"]).tolist() == [True, False]


def test_the_files_padding_and_truncation_are_off() -> None:
    tokenizer = tiny.bytes_tokenizer()
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(3)
    made = Tokens(tokenizer)
    assert (
        made.count(["CD4", "CD4 CD44 B2M MALAT1"]).tolist()
        == tiny.tokens("bytes").count(["CD4", "CD4 CD44 B2M MALAT1"]).tolist()
    )


def test_continuations(tokens: Tokens) -> None:
    for text in ("Cell sentence:", "CD4", "."):
        result = tokens.continuations(text, tiny.GENES)
        for symbol, ids in zip(tiny.GENES, result, strict=True):
            assert tokens.ids([text])[0] + ids == tokens.ids([f"{text} {symbol}"])[0]


def test_continuations_at_the_beginning_of_a_line(tokens: Tokens) -> None:
    for symbol, ids in zip(tiny.GENES, tokens.continuations("Cell 1:\n", tiny.GENES), strict=True):
        assert tokens.ids(["Cell 1:\n"])[0] + ids == tokens.ids([f"Cell 1:\n{symbol}"])[0]


def test_continuations_joined_with_the_text_raise() -> None:
    made = tiny.tokens("bytes")
    made.tokenizer.add_tokens(["9 C"])
    with pytest.raises(ValueError, match=r"joins the end of 'S100A9' and the word 'CD4' in one token"):
        made.continuations("S100A9", ["B2M", "CD4"])


def test_pad() -> None:
    rows = [
        Tokenized(ids=np.array(ids), find_genes=lambda genes=genes: np.array(genes), answer=answer)
        for ids, genes, answer in (([5, 6, 7], [-1, 0, 1], 3), ([5, 8], [0, -1], 1))
    ]
    ids, real, genes = pad(rows, "left", 3)
    assert ids.tolist() == [[5, 6, 7], [0, 5, 8]]
    assert real.tolist() == [[True] * 3, [False, True, True]]
    assert genes.tolist() == [[-1, 0, 1], [-1, 0, -1]]
    ids, real, genes = pad(rows, "right", 3)
    assert ids.tolist() == [[5, 6, 7], [5, 8, 0]]
    assert real.tolist() == [[True] * 3, [True, True, False]]
    assert genes.tolist() == [[-1, 0, 1], [0, -1, -1]]
    assert pad(rows, "left", 5)[1].tolist() == [[False] * 2 + [True] * 3, [False] * 3 + [True] * 2]
    assert pad(rows, "right", 99)[1].sum(axis=1).tolist() == [3, 2]
    assert pad(rows, "right", 99)[0].shape == (2, 8)


#: Beginnings in common, none, an answer that begins another, one that joins the end of the prompt, and a long one.
ANSWERS = [" B cell.", " B", " T cell.", "s: CD4", " natural killer cell of the blood."]


@pytest.mark.parametrize("answers", [ANSWERS[:1], ANSWERS[:3], ANSWERS, ["", " B"]], ids=str)
@pytest.mark.parametrize("after", [". The type of this cell is:", "", " The type is", ".", ". It\nis a", " > of"])
def test_continued_equals_answers_tokenized_after_prompts(tokens: Tokens, answers: list[str], after: str) -> None:
    genes = [tiny.GENES[:5], tiny.GENES[3:12], ["CD4", "A▁B", "TGFΒ1"], []]
    prompts = [Prompt.of_cell("Cell sentence: ", genes=tuple(symbols), after=after) for symbols in genes]
    prompts = [*prompts, Prompt.of_cell("No genes"), *prompts[:2]]
    found = tokens.continued(prompts, answers)
    for prompt, (beginning, rests) in zip(prompts, found, strict=True):
        whole = tokens._encode_whole([prompt] * len(answers), answers)
        assert [[*beginning.tolist(), *ids] for ids, _ in rests] == [row.ids.tolist() for row in whole]
        assert [len(beginning) + start for _, start in rests] == [row.answer for row in whole]
        assert all(start >= 0 for _, start in rests)
        following = {ids[:1] for ids, start in rests if start}
        assert len(following) != 1 or len(following) < len({ids[:1] for ids, _ in rests}), "no more tokens are shared"


def test_lengths_that_batches_have_in_common() -> None:
    for longest in (*range(1, 300), 511, 512, 513, 1942, 8000, 8192):
        result = common_length(longest, 8192)
        assert longest <= result <= min(8192, max(longest + 8, longest * 33 / 32))
        assert common_length(result, 8192) == result
        assert common_length(longest, longest) == common_length(longest, longest - 5) == longest
    assert len({common_length(longest, 8192) for longest in range(1, 8193)}) < 220


# -- cutting


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=4), st.integers(12, 80), st.integers(0, 12))
@pytest.mark.slow
def test_fit_keeps_as_many_genes_as_fit(n_genes: list[int], context: int, reserved_tokens: int) -> None:
    made = tiny.tokens("bytes")
    prompts = [
        Prompt.of_cell("{n_genes} ", genes=tuple(tiny.GENES * 2)[:n], after=".", key=str(row))
        for row, n in enumerate(n_genes)
    ]
    rooms = [reserved_tokens + row for row in range(len(prompts))]
    if made.lengths([prompt.shorten(0) for prompt in prompts]).max() + max(rooms) > context:
        context = 200
    result, lengths = fit(prompts, context=context, reserved_tokens=rooms, count=made.lengths)
    assert lengths.tolist() == made.lengths(result).tolist()
    for before, after, needs in zip(prompts, result, rooms, strict=True):
        assert after == before.shorten(len(after.genes))
        fitting = [n for n in range(len(before.genes) + 1) if made.lengths([before.shorten(n)])[0] + needs <= context]
        assert len(after.genes) == max(fitting)


def test_fit_warns_once_and_only_if_it_cuts(caplog: pytest.LogCaptureFixture) -> None:
    made = tiny.tokens("bytes")
    prompts = [Prompt.of_cell("x ", genes=tuple(tiny.GENES[:n])) for n in (3, 50, 40)]
    with caplog.at_level(logging.WARNING):
        assert fit(prompts, context=1000, reserved_tokens=[0] * 3, count=made.lengths)[0] == prompts
        assert fit([], context=10, reserved_tokens=[], count=made.lengths)[0] == []
        assert not caplog.records
        result, _ = fit(prompts, context=60, reserved_tokens=[0] * 3, count=made.lengths)
    [record] = caplog.records
    cut = 93 - sum(len(prompt.genes) for prompt in result)
    assert record.name == "cell2sen.engine.tokenization.tokenizer"
    assert record.getMessage() == (
        f"2 of 3 cell sentences were too long for the context of 60 tokens: their last {cut} genes were cut"
    )


def test_fit_never_cuts_instruction_or_answer() -> None:
    made = tiny.tokens("bytes")
    prompt = Prompt.of_cell("Cell sentence: ", genes=("CD4",), after=".")
    bare = int(made.lengths([prompt.shorten(0)])[0])
    [result], _ = fit([prompt], context=bare + 20, reserved_tokens=[20], count=made.lengths)
    assert result.genes == ()
    with pytest.raises(ValueError, match=rf"'row 0' has {bare} tokens without any genes and needs 21 .* {bare + 20};"):
        fit([prompt], context=bare + 20, reserved_tokens=[21], count=made.lengths)
    with pytest.raises(ValueError, match="'cell7' has"):
        fit([prompt, replace(prompt, key="cell7")], context=bare + 20, reserved_tokens=[0, 21], count=made.lengths)


# -- loading


@pytest.mark.parametrize("kind", ["spm", "bytes"])
def test_load_tokens(tmp_path: Path, kind: str) -> None:
    tiny.save(tmp_path, "gpt_neox", kind)
    result, expected = load_tokens(str(tmp_path), local_files_only=True), tiny.tokens(kind)
    assert (result.bos, result.eos, result.unk) == (expected.bos, expected.eos, expected.unk)
    text = "Cell sentence: CD4 HLA-DRA  β\n<ctrl100>"
    assert result.ids([text]) == expected.ids([text])


@pytest.mark.parametrize("kind", ["spm", "bytes"])
def test_load_tokens_through_the_architectures_own_class(tmp_path: Path, kind: str) -> None:
    tiny.save(tmp_path, "gpt_neox", kind)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = {"spm": "GemmaTokenizer", "bytes": "GPTNeoXTokenizer"}[kind]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    result, expected = load_tokens(str(tmp_path), local_files_only=True), tiny.tokens(kind)
    assert result.bos == expected.bos
    assert result.eos == expected.eos
    text = "Cell sentence: CD4 HLA-DRA  β\n<ctrl100>"
    assert result.ids([text]) == expected.ids([text])


def test_load_tokens_raises_for_two_opening_tokens(tmp_path: Path) -> None:
    tiny.save(tmp_path, "gpt_neox", "spm")
    tokenizer = tiny.tokens("spm").tokenizer
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> <eos> $A", special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<bos>", "<eos>")]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="begins a text with more than one token"):
        load_tokens(str(tmp_path), local_files_only=True)


def test_load_tokens_raises_if_the_ids_differ_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.save(tmp_path, "gpt_neox", "bytes")
    monkeypatch.setattr("cell2sen.engine.tokenization.tokenizer._agree", lambda made, original: False)
    with pytest.raises(ValueError, match=r"that differs from its tokenizer\.json"):
        load_tokens(str(tmp_path), local_files_only=True)


def test_the_tokenizer_of_whole_genes() -> None:
    gene_tokenizer = pytest.importorskip("cell2sen.engine.tokenization.gene_tokens")
    built = gene_tokenizer.build(tiny.GENES[:-1], [tiny.PROSE] * 3)
    made = Tokens(built.backend_tokenizer, eos=[built.eos_token_id], unk=built.unk_token_id)
    assert made.known([*tiny.GENES, "XYZ1"]).all(), "other words are written in pieces"
    for text in ("Cell sentence:", "CD4", "a T cell."):
        assert all(len(ids) == 1 for ids in made.continuations(text, tiny.GENES[:-1]))
    prompt = Prompt.of_cell("Cell sentence: ", genes=tuple(tiny.GENES), after=". The type of this cell is")
    [row] = made.encode([prompt])
    assert np.bincount(row.genes[row.genes >= 0])[:-1].tolist() == [1] * (len(tiny.GENES) - 1)
