from __future__ import annotations

import dataclasses
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cell2sen.task import ParsedSentence, Prompt, Task, Template, parse_label, parse_sentence

LABEL = Task(
    name="label",
    answer="label",
    target="cell_type",
    templates=(Template(prompt="{n_genes} genes of a {organism}: {genes}.\nType:", answer=" {cell_type}."),),
)
WRITE = Task(
    name="write",
    answer="sentence",
    templates=(Template(prompt="Write {n_genes} genes of {cell_type}:", answer=" {sentence}."),),
)
GENES = ("CD4", "LYZ", "B2M")

genes = st.lists(st.text(st.characters(categories=["L", "N", "P"], exclude_characters="{}"), min_size=1), max_size=9)


# --- prompts


@given(genes=genes, before=st.text(st.characters(exclude_characters="{}")))
def test_spans_are_where_the_genes_are(genes, before):
    prompt = Prompt(before=before + "{n_genes} ", genes=tuple(genes), after=".")
    assert [prompt.text[start:stop] for start, stop in prompt.spans] == genes
    assert prompt.text == prompt.prefix + " ".join(genes) + prompt.suffix


def test_a_shortened_prompt_tells_the_truth_about_itself():
    prompt = LABEL.prompt(genes=GENES, organism="mouse", key="c1")
    assert prompt.text == "3 genes of a Mus musculus: CD4 LYZ B2M.\nType:"
    assert prompt.shorten(2).text == "2 genes of a Mus musculus: CD4 LYZ.\nType:"
    assert prompt.shorten(0).text == "0 genes of a Mus musculus: .\nType:"
    assert prompt.shorten(2).key == "c1"
    assert prompt.shorten(2).shorten(3) == prompt.shorten(2)
    assert prompt.text == "3 genes of a Mus musculus: CD4 LYZ B2M.\nType:"


def test_the_number_of_genes_to_write():
    assert WRITE.prompt(cell_type="B cells", ask=7).text == "Write 7 genes of B cells:"


@pytest.mark.parametrize("organism", ["human", "Homo sapiens", "NCBITaxon:9606"])
def test_organism_by_its_scientific_name(organism):
    assert "of a Homo sapiens:" in LABEL.prompt(genes=GENES, organism=organism).text
    assert "of a Danio rerio:" in LABEL.prompt(genes=GENES, organism="Danio rerio").text


def test_values_are_not_filled_twice():
    assert WRITE.prompt(cell_type="{organism}", ask=1).text == "Write 1 genes of {organism}:"


def test_slots_and_defaults():
    assert WRITE.slots == {"cell_type"}
    assert LABEL.slots == frozenset()
    with pytest.raises(KeyError, match=r"needs a value for 'cell_type'; given: \['organism', 'tissue'\]"):
        WRITE.prompt(tissue="blood")
    filled = dataclasses.replace(WRITE, defaults={"cell_type": "T cells"})
    assert filled.prompt(ask=1).text == "Write 1 genes of T cells:"
    assert filled.prompt(ask=1, cell_type="B cells").text == "Write 1 genes of B cells:"
    with pytest.raises(ValueError, match="has no template"):
        Task(name="x", answer="none", templates=())


def test_the_answer_stands_behind_the_prompt():
    assert LABEL.complete(cell_type="B cells") == " B cells."
    with pytest.raises(KeyError, match="'cell_type'"):
        LABEL.complete()


def test_tasks_and_prompts_can_be_pickled():
    for one in (LABEL, LABEL.prompt(genes=GENES)):
        assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301


# --- other words


@pytest.mark.parametrize(
    ("prompt", "answer", "message"),
    [
        ("{genes} {tissue}:", " {cell_type}.", r"prompt.*unknown slots \['tissue'\]; available: \['genes', 'n_genes'"),
        ("{genes} {cell_type}:", " {cell_type}.", r"prompt.*unknown slots \['cell_type'\]"),  # the answer given away
        ("Type:", " {cell_type}.", r"prompt.*lacks the slots \['genes'\]"),
        ("{genes}:", ".", r"answer.*lacks the slots \['cell_type'\]"),
        ("{genes} {genes}:", " {cell_type}.", "more than once"),
    ],
)
def test_wrong_templates(prompt, answer, message):
    with pytest.raises(ValueError, match=message):
        LABEL.reworded([Template(prompt=prompt, answer=answer)], "user")


def test_other_words():
    other = LABEL.reworded([Template(prompt="{genes}?", answer=" {cell_type}!"), *LABEL.templates], "user")
    assert other.prompt(genes=GENES).text == "CD4 LYZ B2M?"
    assert other.prompt(genes=GENES, variant=1).text == LABEL.prompt(genes=GENES).text
    assert other.complete(cell_type="B") == " B!"
    assert other.source == "user"
    assert len(other.template_hash) == 16
    assert other.template_hash != LABEL.template_hash == dataclasses.replace(LABEL, source="x").template_hash
    with pytest.raises(ValueError, match="no template was given"):
        LABEL.reworded([], "user")


# --- answers


def slow_parse(text, vocabulary):
    words = text.strip()
    words = (words[:-1] if words.endswith(".") else words).split()
    places = {gene: [i for i, word in enumerate(words) if word == gene] for gene in set(words) & set(vocabulary)}
    means = {gene: sum(at) / len(at) for gene, at in places.items()}
    return tuple(sorted(means, key=lambda gene: (means[gene], places[gene][0]))), len(words)


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
    for one in order:
        for other in order:
            last = max(place for place, word in enumerate(words) if word == one)
            if one != other and last < words.index(other):
                assert order.index(one) < order.index(other)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ParsedSentence(genes=(), n_words=0, n_unknown=0, n_repeated=0)),
        (".", ParsedSentence(genes=(), n_words=0, n_unknown=0, n_repeated=0)),
        (" RP11-34P13.7 CD4.", ParsedSentence(genes=("RP11-34P13.7", "CD4"), n_words=2, n_unknown=0, n_repeated=0)),
        ("LYZ CD4 foo LYZ LYZ", ParsedSentence(genes=("CD4", "LYZ"), n_words=5, n_unknown=1, n_repeated=2)),
    ],
)
def test_parse_sentence(text, wanted):
    parsed = WRITE.parse(text, ["CD4", "LYZ", "RP11-34P13.7"])
    assert parsed == wanted
    assert parsed.validity == (len(wanted.genes) / wanted.n_words if wanted.n_words else 0)


@pytest.mark.parametrize(
    ("text", "label"), [(" B cells.", "B cells"), ("CD4 T\n", "CD4 T"), (".", ""), ("T cells ..", "T cells .")]
)
def test_parse_label(text, label):
    assert parse_label(text) == LABEL.parse(text) == label
