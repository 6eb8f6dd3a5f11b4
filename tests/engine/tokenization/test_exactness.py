"""Proofs hold for random texts, and each violated condition prevents the proof."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

import cell2sen
from cell2sen.engine.tokenization import gene_tokens as gene_tokenizer
from cell2sen.engine.tokenization.exactness import Verdict, describe, fits, prove

genes = st.sampled_from(tiny.GENES) | st.text("ABCde-.19βé\u0301▁Ġ_'s<>,;:", min_size=1, max_size=9)
sentences = st.lists(genes, min_size=1, max_size=8)


def verdict(tokenizer: Tokenizer) -> Verdict:
    return prove(describe(tokenizer), tokenizer.get_vocab(with_added_tokens=False))


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def parts_differ(tokenizer: Tokenizer, symbols: list[str], before: str = "Cell:") -> bool:
    whole = ids(tokenizer, " ".join([before, *symbols]))
    return whole != ids(tokenizer, before) + [token for symbol in symbols for token in ids(tokenizer, " " + symbol)]


def spm(entries: tuple[str, ...] = (), **changes: Any) -> Tokenizer:
    """The Gemma-like tokenizer, with more entries and other options of its model."""
    model = json.loads(tiny._written("spm"))["model"]
    vocabulary, merges = dict(model["vocab"]), []
    for entry in entries:
        for character in entry:
            vocabulary.setdefault(character, len(vocabulary))
        for end in range(2, len(entry) + 1):
            if entry[:end] not in vocabulary:
                vocabulary[entry[:end]] = len(vocabulary)
                merges.append((entry[: end - 1], entry[end - 1]))
    options = {"unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True} | changes
    merges += [tuple(merge) for merge in model["merges"]]  # after the new ones, which would never be applied otherwise
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, **options))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return made


def bytes_(**parts: Any) -> Tokenizer:
    made = Tokenizer.from_str(tiny._written("bytes"))
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def plain(pre_tokenizer: Any = None) -> Tokenizer:
    """BPE over the bare text with its spaces."""
    model = json.loads(tiny._written("spm"))["model"]
    vocabulary = {entry.replace("▁", " "): number for entry, number in model["vocab"].items()}
    merges = [tuple(side.replace("▁", " ") for side in merge) for merge in model["merges"]]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizer
    return made


def with_added(tokenizer: Tokenizer, *tokens: Any) -> Tokenizer:
    tokenizer.add_tokens(list(tokens))
    return tokenizer


PROVEN = {
    "Gemma-like": (spm, "M"),
    "GPT-NeoX-like": (bytes_, "P"),
    "one token a gene": (lambda: Tokenizer.from_str(tiny._written("genes")), "P"),
    "bare BPE": (plain, "M"),
    "NFC twice": (
        lambda: bytes_(normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.Sequence([])])), "P",
    ),
    "decomposed": (lambda: bytes_(normalizer=normalizers.NFD()), "P"),
    "replaced and marked": (
        lambda: _set(spm(), normalizer=marked(normalizers.Replace("-", "xy"))),
        "M",
    ),
    "a prefix space": (lambda: bytes_(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)), "P"),
    "runs of spaces": (lambda: with_added(bytes_(), *["  ", "   ", " ", "\n "]), "P"),
    "a token that strips the space before it": (lambda: with_added(spm(), AddedToken("<m>", lstrip=True)), "M"),
    "a token within a gene": (lambda: with_added(bytes_(), "D4", "LA-"), "P"),
    "runs of marks": (lambda: spm(("▁▁", "▁▁▁", "\n▁▁")), "M"),
    "entries across spaces after signs (Gemma 3)": (lambda: spm((">▁</", "]▁")), "M"),
}  # fmt: skip


def marked(*steps: Any) -> Any:
    return normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])


def _set(tokenizer: Tokenizer, **parts: Any) -> Tokenizer:
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


@pytest.mark.parametrize("name", PROVEN)
@pytest.mark.slow
def test_proofs_hold(name: str) -> None:
    make, by = PROVEN[name]
    tokenizer = make()
    result = verdict(tokenizer)
    assert result == Verdict(by=by, mark=result.mark, joined=result.joined)

    @settings(max_examples=150, deadline=None, database=None)
    @given(sentences, st.sampled_from(["Cell:", "A", "é", "x.\n\ny", "<m>", "two  spaces"]))
    def holds(symbols: list[str], before: str) -> None:
        symbols = [symbol for symbol in symbols if fits(symbol, result, tokenizer)]
        if before[-1] not in result.joined:  # no cut is made after these
            assert not parts_differ(tokenizer, symbols, before)

    holds()


# Condition, tokenizer, part of the reason, and a sentence whose ids differ from those of its genes, where there is one.
REFUSED: dict[str, tuple[Any, str, list[str] | None]] = {
    "N: a space before the text": (
        lambda: _set(spm(), normalizer=marked(normalizers.Prepend("▁"))),
        "Prepend", ["CD4", "CD8A"],
    ),
    "N: spaces collapse": (
        lambda: _set(bytes_(), normalizer=normalizers.Replace(Regex(r"4 +C"), "4C")), "Replace", ["CD4", "CD8A"],
    ),
    "N: a pattern across the cut": (
        lambda: _set(bytes_(), normalizer=normalizers.Replace("4 C", "4+C")), "replaces '4 C'", ["CD4", "CD8A"],
    ),
    "N: stripped": (lambda: _set(bytes_(), normalizer=normalizers.Strip()), "Strip", ["CD4", "CD8A"]),
    "N: characters vanish": (
        lambda: _set(spm(("▁▁",)), normalizer=marked(normalizers.Replace("-", ""))),
        "replaces '-' by ''", ["-", "CD8A"],
    ),
    "N: spaces written for others": (
        lambda: _set(bytes_(), normalizer=normalizers.Replace("-", " ")), "writes spaces", None,
    ),
    "A: across the cut": (lambda: with_added(spm(), "4 C"), "added token '4 C'", ["CD4", "CD8A"]),
    "A: across, of marks": (
        lambda: with_added(spm(), AddedToken("4▁C", normalized=True)), "added token", ["CD4", "CD8A"],
    ),
    "A: ends in a space": (lambda: with_added(bytes_(), "D4 "), "added token 'D4 '", ["CD4", "CD8A"]),
    "A: strips the space after": (
        lambda: with_added(bytes_(), AddedToken("D4", rstrip=True)), "added token 'D4'", ["CD4", "CD8A"],
    ),
    "A: depends on the character before": (
        lambda: with_added(bytes_(), AddedToken(" B2M", single_word=True)), "added token ' B2M'", ["CD4", "B2M"],
    ),
    "P: ByteLevel without its pattern": (
        lambda: _set(_joined(), pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
        "ByteLevel", ["CD4", "CD8A"],
    ),
    "P: a pattern that is not known": (
        lambda: bytes_(pre_tokenizer=pre_tokenizers.Split(Regex(r"\S+ ?|\s"), "isolated")), "Split", None,
    ),
    "P: cut and joined again": (
        lambda: bytes_(pre_tokenizer=pre_tokenizers.Split(Regex(gene_tokenizer.WORD), "merged_with_next")),
        "Split", None,
    ),
    "P: a space that depends on the place": (
        lambda: _set(spm(), normalizer=None, pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="always")),
        "Metaspace", None,
    ),
    "M: an entry with a mark inside": (lambda: spm(("4▁C",)), "entry '4▁", ["B4", "CD8A"]),
    "M: an entry that ends in a mark": (lambda: spm(("4▁",)), "entry '4▁'", ["B4", "CD8A"]),
    "M: an entry with a mark after the sign of a symbol": (lambda: spm((".▁C",)), "entry '.▁", ["B.", "CD8A"]),
    "M: an entry across spaces whose sign the normaliser writes": (
        lambda: _set(spm((">▁C",)), normalizer=marked(normalizers.Replace("4", ">"))), "entries across spaces",
        ["CD4", "CD8A"],
    ),
    "M: no mark": (
        lambda: _set(spm(), normalizer=normalizers.Replace(" ", "§")), "lacks the boundary mark '§'", None,
    ),
    "M: unknown characters vanish": (
        lambda: spm(("▁▁",), unk_token=None, byte_fallback=False, fuse_unk=False), "vanish", ["§", "▁"],
    ),
    "M: whole pieces": (lambda: spm(ignore_merges=True), "ignore_merges", None),
    "M: not BPE": (
        lambda: _set(Tokenizer(models.Unigram([("<unk>", -9.0), ("▁", -1.0), ("A", -2.0)], unk_id=0)),
                     normalizer=normalizers.Replace(" ", "▁")),
        "Unigram", None,
    ),
    "M: endings": (lambda: spm(end_of_word_suffix="</w>"), "end_of_word_suffix", None),
    "D: dropout": (lambda: spm(dropout=0.5), "at random", None),
    "D: truncation": (lambda: _truncated(), "truncates or pads", None),
}  # fmt: skip


def _joined() -> Tokenizer:
    """Byte-level BPE with a token for the end of one gene and the beginning of another."""
    made = json.loads(tiny._written("bytes"))["model"]
    vocabulary = dict(made["vocab"]) | {"4Ġ": len(made["vocab"])}
    return Tokenizer(models.BPE(vocab=vocabulary, merges=[("4", "Ġ"), *map(tuple, made["merges"])]))


def _truncated() -> Tokenizer:
    made = bytes_()
    made.enable_truncation(9)
    return made


@pytest.mark.parametrize("name", REFUSED)
def test_each_violation_prevents_the_proof(name: str) -> None:
    make, reason, example = REFUSED[name]
    tokenizer = make()
    result = verdict(tokenizer)
    assert result.by == ""
    assert reason in result.why
    if example is not None:
        assert parts_differ(tokenizer, example)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("4DA>▁\n"), st.sampled_from("▁CB4")), max_size=3), sentences)
def test_no_vocabulary_passes_that_joins_genes(pairs: list[tuple[str, str]], symbols: list[str]) -> None:
    tokenizer = spm(tuple(map("".join, pairs)))
    result = verdict(tokenizer)
    bad = any(before not in ">▁\n" and after == "▁" for before, after in pairs)
    assert (result.by == "") == bad
    if result.by:
        assert not parts_differ(tokenizer, [symbol for symbol in symbols if fits(symbol, result, tokenizer)])


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [("CD4", True), ("TGFΒ1", True), ("", False), ("CD 4", False), ("CD4\x1f", False), ("A▁", False), ("▁A", False)],
)
def test_symbols(symbol: str, expected: bool) -> None:
    tokenizer = spm()
    assert fits(symbol, verdict(tokenizer), tokenizer) is expected


def test_the_whole_file_gives_the_same_as_its_parts(tmp_path: Path) -> None:
    for kind, by in (("spm", "M"), ("bytes", "P"), ("genes", "P")):
        description = json.loads(tiny._written(kind))
        assert prove(description, description["model"]["vocab"]).by == by


def test_the_embedded_models_tokenizer_is_proven() -> None:
    file = Path(cell2sen.__file__).parent / "nano" / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    assert verdict(tokenizer).by == "P"
    built = gene_tokenizer.build(tiny.GENES, [tiny.PROSE] * 3).backend_tokenizer
    result = verdict(built)
    assert result.by == "P"

    @settings(max_examples=200, deadline=None, database=None)
    @given(sentences, st.sampled_from(["Cell:", "a.", "x,", "é", "The\ncell"]))
    def holds(symbols: list[str], before: str) -> None:
        for made in (tokenizer, built):
            symbols = [symbol for symbol in symbols if fits(symbol, result, made)]
            assert not parts_differ(made, symbols, before)

    holds()
