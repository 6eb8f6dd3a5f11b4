"""sample_from_tissue: tissue → cell sentences of several cells of one sample."""

from cell2sen.task import Task, Template

TASK = Task(
    name="sample_from_tissue",
    answer="sentences",
    target="sentence",
    cells=(1, 20),
    templates=(
        Template(
            prompt=(
                "Write the {n_genes} most expressed genes of each of {n_cells} {organism} cells of one sample, "
                "strongest first. The tissue of these cells is: {tissue}.\n"
                "Cell sentences:"
            ),
            answer="{cells}",
            answer_cell="\nCell {number}: {sentence}.",
        ),
    ),
)
