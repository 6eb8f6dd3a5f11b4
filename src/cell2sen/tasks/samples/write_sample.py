"""write_sample: organism alone → cell sentences of several cells of one sample; language modelling."""

from cell2sen.task import Task, Template

TASK = Task(
    name="write_sample",
    answer="sentences",
    target="sentence",
    cells=(1, 20),
    templates=(
        Template(
            prompt=(
                "Write the {n_genes} most expressed genes of each of {n_cells} {organism} cells of one sample, "
                "strongest first.\n"
                "Cell sentences:"
            ),
            answer="{cells}",
            answer_cell="\nCell {number}: {sentence}.",
        ),
    ),
)
