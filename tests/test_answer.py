"""Parsing of answers equals its definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cell2sen.answer import (
    ParsedSentence,
    by_upper_case,
    marked,
    named_genes,
    parse_blocks,
    parse_label,
    parse_number,
    parse_sentence,
    parse_yes_no,
)


def slow_parse(text, vocabulary):
    words = text.strip()
    words = (words[:-1] if words.endswith(".") else words).split()
    positions = {gene: [i for i, word in enumerate(words) if word == gene] for gene in set(words) & set(vocabulary)}
    means = {gene: sum(of_gene) / len(of_gene) for gene, of_gene in positions.items()}
    return tuple(sorted(means, key=lambda gene: (means[gene], positions[gene][0]))), len(words)


@given(words=st.lists(st.sampled_from(["A", "B", "C", "D", "x", "y."])), end=st.sampled_from(["", ".", " .", " . \n"]))
def test_parsed_sentence_equals_its_definition(words, end):
    text = " ".join(words) + end
    parsed = parse_sentence(text, ["A", "B", "C", "D"])
    genes, n_words = slow_parse(text, "ABCD")
    assert (parsed.genes, parsed.n_words) == (genes, n_words)
    assert parsed.n_unknown + parsed.n_repeated + len(parsed.genes) == n_words
    assert parsed == parse_sentence(text, dict.fromkeys("ABCD")) == parse_sentence(text, frozenset("ABCD"))


@given(words=st.lists(st.sampled_from("ABC")))
def test_a_repeated_gene_stays_before_genes_it_always_preceded(words):
    order = parse_sentence(" ".join(words), set("ABC")).genes
    for gene in order:
        for other in order:
            last = max(position for position, word in enumerate(words) if word == gene)
            if gene != other and last < words.index(other):
                assert order.index(gene) < order.index(other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ParsedSentence(genes=(), n_words=0, n_unknown=0, n_repeated=0)),
        (".", ParsedSentence(genes=(), n_words=0, n_unknown=0, n_repeated=0)),
        (" RP11-34P13.7 CD4.", ParsedSentence(genes=("RP11-34P13.7", "CD4"), n_words=2, n_unknown=0, n_repeated=0)),
        ("LYZ CD4 foo LYZ LYZ", ParsedSentence(genes=("CD4", "LYZ"), n_words=5, n_unknown=1, n_repeated=2)),
    ],
)
def test_parse_sentence(text, expected):
    parsed = parse_sentence(text, ["CD4", "LYZ", "RP11-34P13.7"])
    assert parsed == expected


@pytest.mark.parametrize(
    ("text", "validity", "uniqueness"),
    [("", 0, 0), ("foo", 0, 0), ("CD4 LYZ", 1, 1), ("LYZ CD4 foo LYZ LYZ", 4 / 5, 2 / 4), ("foo CD4 bar", 1 / 3, 1)],
)
def test_validity_and_uniqueness(text, validity, uniqueness):
    parsed = parse_sentence(text, ["CD4", "LYZ"])
    assert parsed.validity == pytest.approx(validity)
    assert parsed.uniqueness == pytest.approx(uniqueness)


@pytest.mark.parametrize(
    ("text", "label"), [(" B cells.", "B cells"), ("CD4 T\n", "CD4 T"), (".", ""), ("T cells ..", "T cells .")]
)
def test_parse_label(text, label):
    assert parse_label(text) == label


@pytest.mark.parametrize(
    ("text", "answer"),
    [(" Yes.", True), ("no", False), ("NO, never", False), ("maybe", None), ("", None), ("yess", None)],
)
def test_parse_yes_no(text, answer):
    assert parse_yes_no(text) is answer


@pytest.mark.parametrize(
    "block", ["\nCell {number}: {value}.", "\n{number}. {value}", "\n{value}", " ({number}) {value};"]
)
@pytest.mark.parametrize("n", [1, 2, 20])
def test_blocks_are_read_back(block, n):
    values = tuple(f"CD4+ T-cell {'x' * (number + 1)}" for number in range(n))
    text = "".join(
        block.replace("{number}", str(number + 1)).replace("{value}", value) for number, value in enumerate(values)
    )
    assert parse_blocks(text, block, "value") == values


def test_blocks_of_an_answer_that_was_cut_off():
    assert parse_blocks("\nCell 1: CD4 LYZ.\nCell 2:", "\nCell {number}: {sentence}.", "sentence") == ("CD4 LYZ", "")
    assert parse_blocks("Cells follow.", "\nCell {number}: {sentence}.", "sentence") == ()


@pytest.mark.parametrize(
    ("text", "organism", "found"),
    [
        ("High CD3D, HLA-DRA and MS4A1.", "Homo sapiens", ["CD3D", "HLA-DRA", "MS4A1"]),
        ("NK cells with DNA, MHC and T cells (CD8A+).", "Homo sapiens", ["CD8A"]),
        ("Cat and mice were set at rest; the Impact of Cat", "Homo sapiens", []),
        ("Cells express Actb. Cat is a gene, and Cat too", "Mus musculus", ["Actb", "Cat"]),
        ("a cd4 t cell", "Homo sapiens", []),
        ("KIT and C1orf21/CD4", "Homo sapiens", ["KIT", "C1orf21", "CD4"]),
        ("GENE9 of the data, in another case: Gene9", "Homo sapiens", ["GENE9", "Gene9"]),
        ("", "Homo sapiens", []),
    ],
)
def test_genes_that_a_text_names(text: str, organism: str, found: list[str]) -> None:
    assert list(named_genes(text, by_upper_case(["GENE9"]), organism)) == found


def test_marked_pieces_are_the_text() -> None:
    text = "CD4, CD44 and CD4."
    pieces = marked(text, {"CD4": "present", "CD44": "absent"})
    assert "".join(piece for piece, _ in pieces) == text
    assert [piece for piece in pieces if piece[1]] == [("CD4", "present"), ("CD44", "absent"), ("CD4", "present")]


@pytest.mark.parametrize(
    ("text", "number"),
    [(" 45.", 45), ("4.5.", 4.5), ("-2e3 h", -2000), (" 3 days.", 3), ("about 3", None), ("3rd", None), ("", None)],
)
def test_parse_number(text: str, number: float | None) -> None:
    assert parse_number(text) == number
