"""Task: prompts and answers from templates, of one cell, several or none."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
from cells import cells as some_cells

from cell2sen.prompt import Genes
from cell2sen.sentences.writing import from_anndata
from cell2sen.task import Task, Template

LABEL = Task(
    name="label",
    answer="label",
    target="cell_type",
    templates=(Template(prompt="{n_genes} genes of a {organism}: {genes}.\nType:", answer=" {cell_type}."),),
)
WRITE = Task(
    name="write",
    answer="sentences",
    templates=(Template(prompt="Write {n_genes} genes of {cell_type}:", answer=" {sentence}."),),
)
TISSUE = Task(
    name="tissue",
    answer="label",
    target="tissue",
    cells=(2, 20),
    templates=(
        Template(
            prompt="{n_cells} cells of a {organism}, {n_genes} genes each:\n{cells}Tissue:",
            cell="Cell {number}: {genes}.\n",
            answer=" {tissue}.",
        ),
    ),
)
SAMPLE = Task(
    name="sample",
    answer="sentences",
    target="sentence",
    templates=(
        Template(prompt="{n_cells} cells of {tissue}:", answer="{cells}", answer_cell="\nCell {number}: {sentence}."),
    ),
)
TYPES = Task(
    name="types",
    answer="labels",
    target="cell_type",
    cells=(2, 20),
    templates=(
        Template(
            prompt="{cells}Types:", cell="Cell {number}: {genes}.\n", answer="{cells}",
            answer_cell="\n{number}. {cell_type}",
        ),
    ),
)  # fmt: skip
NAME = Task(
    name="name",
    answer="text",
    target="name",
    templates=(Template(prompt="The {n_genes} genes {gene_set} are the set:", answer=" {name}."),),
)
GENES = ("CD4", "LYZ", "B2M")
CELLS = {"c1": ("CD4", "LYZ", "B2M"), "c2": ("LYZ", "ACTB", "FTL")}


def test_a_shortened_prompt_has_its_own_number_of_genes():
    prompt = LABEL.prompt(genes=GENES, organism="mouse", key="c1")
    assert prompt.text == "3 genes of a Mus musculus: CD4 LYZ B2M.\nType:"
    assert prompt.shorten(2).text == "2 genes of a Mus musculus: CD4 LYZ.\nType:"
    assert prompt.shorten(0).text == "0 genes of a Mus musculus: .\nType:"
    assert prompt.shorten(2).key == "c1"
    assert prompt.shorten(2).shorten(3) == prompt.shorten(2)
    assert prompt.text == "3 genes of a Mus musculus: CD4 LYZ B2M.\nType:"


def test_the_number_of_genes_to_write():
    assert WRITE.prompt(cell_type="B cells", answer_genes=7).text == "Write 7 genes of B cells:"


@pytest.mark.parametrize("organism", ["human", "Homo sapiens", "NCBITaxon:9606"])
def test_organism_by_its_scientific_name(organism):
    assert "of a Homo sapiens:" in LABEL.prompt(genes=GENES, organism=organism).text
    assert "of a Danio rerio:" in LABEL.prompt(genes=GENES, organism="Danio rerio").text


def test_values_are_not_filled_twice():
    assert WRITE.prompt(cell_type="{organism}", answer_genes=1).text == "Write 1 genes of {organism}:"


def test_slots_and_defaults():
    assert WRITE.slots == {"cell_type"}
    assert LABEL.slots == frozenset()
    with pytest.raises(KeyError, match=r"needs a value for 'cell_type'; given: \['organism', 'tissue'\]"):
        WRITE.prompt(tissue="blood")
    filled = dataclasses.replace(WRITE, defaults={"cell_type": "T cells"})
    assert filled.prompt(answer_genes=1).text == "Write 1 genes of T cells:"
    assert filled.prompt(answer_genes=1, cell_type="B cells").text == "Write 1 genes of B cells:"
    with pytest.raises(ValueError, match="has no template"):
        Task(name="x", answer="none", templates=())


def test_the_text_of_the_correct_answer():
    assert LABEL.complete(cell_type="B cells") == " B cells."
    with pytest.raises(KeyError, match="'cell_type'"):
        LABEL.complete()


def test_tasks_and_prompts_can_be_pickled():
    for value in (LABEL, LABEL.prompt(genes=GENES)):
        assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301


# --- Other templates


@pytest.mark.parametrize(
    ("prompt", "answer", "message"),
    [
        ("{genes} {tissue}:", " {cell_type}.", r"prompt.*unknown slots \['tissue'\]; available: \['genes', 'n_genes'"),
        ("{genes} {cell_type}:", " {cell_type}.", r"prompt.*unknown slots \['cell_type'\]"),  # would contain the answer
        ("Type:", " {cell_type}.", r"prompt.*lacks the slots \['genes'\]"),
        ("{genes}:", ".", r"answer.*lacks the slots \['cell_type'\]"),
        ("{genes} {genes}:", " {cell_type}.", "more than once"),
    ],
)
def test_wrong_templates(prompt, answer, message):
    with pytest.raises(ValueError, match=message):
        LABEL.reworded([Template(prompt=prompt, answer=answer)], "user")


def test_other_templates():
    task = LABEL.reworded([Template(prompt="{genes}?", answer=" {cell_type}!"), *LABEL.templates], "user")
    assert task.prompt(genes=GENES).text == "CD4 LYZ B2M?"
    assert task.prompt(genes=GENES, variant=1).text == LABEL.prompt(genes=GENES).text
    assert task.complete(cell_type="B") == " B!"
    assert task.source == "user"
    assert len(task.template_hash) == 16
    assert task.template_hash != LABEL.template_hash == dataclasses.replace(LABEL, source="x").template_hash
    with pytest.raises(ValueError, match="at least one template"):
        LABEL.reworded([], "user")


# --- Several cells, gene sets, answers of all kinds


def test_cells_are_numbered_and_named():
    prompt = TISSUE.prompt(cells=CELLS, key="c1")
    assert prompt.text == (
        "2 cells of a Homo sapiens, 3 genes each:\nCell 1: CD4 LYZ B2M.\nCell 2: LYZ ACTB FTL.\nTissue:"
    )
    assert [genes.cell for genes in prompt.lists] == ["c1", "c2"]
    assert prompt.genes == (*CELLS["c1"], *CELLS["c2"])
    assert [prompt.text[start:stop] for start, stop in prompt.spans] == list(prompt.genes)
    assert prompt.shorten(1).text == ("2 cells of a Homo sapiens, 1 genes each:\nCell 1: CD4.\nCell 2: LYZ.\nTissue:")


def test_a_slot_of_the_block_has_one_value_for_each_cell_or_one_for_all():
    block = Template(prompt="{cells}Tissue:", cell="{number} {cell_type} of {donor}: {genes}.\n", answer=" {tissue}.")
    task = dataclasses.replace(TISSUE, templates=(block,))
    assert task.slots == {"cell_type", "donor"}
    text = task.prompt(cells=CELLS, cell_type=["T", "B"], donor="d1").text
    assert text == "1 T of d1: CD4 LYZ B2M.\n2 B of d1: LYZ ACTB FTL.\nTissue:"


def test_gene_sets_are_lists_of_no_cell():
    prompt = NAME.prompt(gene_set=["B2M", "CD4"])
    assert prompt.text == "The 2 genes B2M CD4 are the set:"
    assert prompt.lists == (Genes(symbols=("B2M", "CD4")),)
    assert NAME.parse(" antigen presentation. ") == "antigen presentation."


def test_answers_with_a_part_for_each_cell():
    text = SAMPLE.complete(n_cells=2, sentence=["CD4 LYZ", "LYZ FTL"])
    assert text == "\nCell 1: CD4 LYZ.\nCell 2: LYZ FTL."
    assert [parsed.genes for parsed in SAMPLE.parse(text, {"CD4", "LYZ", "FTL"})] == [("CD4", "LYZ"), ("LYZ", "FTL")]
    assert SAMPLE.openings(2) == ["\nCell 1: ", ".\nCell 2: ", "."]
    labels = TYPES.complete(n_cells=3, cell_type=["T cell", "B cell", "CD4+ T cell"])
    assert TYPES.parse(labels) == ("T cell", "B cell", "CD4+ T cell")
    assert TYPES.openings(2) == ["\n1. ", "\n2. ", ""]


def test_an_extended_prompt_keeps_its_numbers():
    prompt = SAMPLE.prompt(tissue="blood", cells={"a": (), "b": ()}, answer_genes=5)
    longer = prompt.extended("\nCell 1: ", Genes(symbols=("CD4", "LYZ"), cell="a"), ".\nCell 2:", key="b")
    assert longer.text == "2 cells of blood:\nCell 1: CD4 LYZ.\nCell 2:"
    assert longer.key == "b"


def test_values_that_look_like_slots_stay_as_they_are():
    for value in ("a {n_genes}", "{tissue}", "{cells} {genes} {number}", "100 % {}"):
        prompt = SAMPLE.prompt(tissue=value, cells={"a": (), "b": ()}, answer_genes=5)
        assert f"2 cells of {value}:" in prompt.text
        assert prompt.extended(" CD4", key="b").text == f"{prompt.text} CD4"


def test_blocks_and_cells_belong_together():
    with pytest.raises(ValueError, match=r"both \{cells\} in prompt= and cell="):
        dataclasses.replace(TISSUE, templates=(Template(prompt="{cells}Tissue:", answer=" {tissue}."),))


def test_prompts_of_cells_and_of_samples():
    cells = from_anndata(some_cells(6))
    lists = cells.gene_lists(4)
    prompts = LABEL.prompts(cells, [3, 1], length=4)
    assert prompts == [
        LABEL.prompt(genes=lists[row], organism=cells.organism[row], key=str(cells.names[row])) for row in (3, 1)
    ]
    [sample] = TISSUE.prompts(cells, [[4, 0, 2]], length=4)
    shortest = min(len(lists[row]) for row in (4, 0, 2))
    assert sample.key == cells.names[4]
    assert [genes.cell for genes in sample.lists] == [cells.names[row] for row in (4, 0, 2)]
    assert [tuple(genes.symbols) for genes in sample.lists] == [tuple(lists[row][:shortest]) for row in (4, 0, 2)]
