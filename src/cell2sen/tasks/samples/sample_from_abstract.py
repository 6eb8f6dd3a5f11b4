"""sample_from_abstract: abstract of a study → cell sentences of several cells of one of its samples."""

from cell2sen.task import Task, Template

TASK = Task(
    name="sample_from_abstract",
    answer="sentences",
    target="sentence",
    cells=(1, 20),
    templates=(
        Template(
            prompt=(
                "This is the abstract of a study of {organism} cells: {abstract}\n"
                "Write the {n_genes} most expressed genes of each of {n_cells} cells of one sample of this study, "
                "strongest first.\n"
                "Cell sentences:"
            ),
            answer="{cells}",
            answer_cell="\nCell {number}: {sentence}.",
        ),
    ),
)
