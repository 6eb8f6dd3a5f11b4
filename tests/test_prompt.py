"""Prompt: positions of genes in the text, and shortened lists."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cell2sen.prompt import Genes, Prompt

genes = st.lists(st.text(st.characters(categories=["L", "N", "P"], exclude_characters="{}"), min_size=1), max_size=9)


@given(genes=genes, before=st.text(st.characters(exclude_characters="{}")))
def test_spans_are_where_the_genes_are(genes, before):
    prompt = Prompt.of_cell(before + "{n_genes} ", genes=tuple(genes), after=".")
    assert [prompt.text[start:stop] for start, stop in prompt.spans] == genes
    assert prompt.text == before + f"{len(genes)} " + " ".join(genes) + "."


@given(lists=st.lists(st.tuples(genes, st.sampled_from([".", " and ", ""])), max_size=4))
def test_spans_of_several_lists(lists):
    segments = [segment for symbols, text in lists for segment in (Genes(symbols=tuple(symbols), cell="c"), text)]
    prompt = Prompt(segments=("Genes: ", *segments))
    assert [prompt.text[start:stop] for start, stop in prompt.spans] == list(prompt.genes)
    assert prompt.text == "Genes: " + "".join(" ".join(symbols) + text for symbols, text in lists)
    assert len(prompt.cells) == len(prompt.genes)
    assert prompt.n_genes == max((len(symbols) for symbols, _ in lists), default=0)
    for n in (0, 1, 20):
        cut = [symbols[:n] for symbols, _ in lists]
        assert [list(part.symbols) for part in prompt.shorten(n).lists] == cut


def test_text_is_never_cut():
    prompt = Prompt.of_cell("{n_genes} genes: ", ("CD4", "LYZ"), ". Type:", key="c")
    assert prompt.shorten(0).text == "0 genes: . Type:"
    assert Prompt.of_cell("Type:").shorten(0) == Prompt.of_cell("Type:")
