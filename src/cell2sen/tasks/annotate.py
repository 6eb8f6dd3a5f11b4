"""annotate: cell sentence → cell type."""

from cell2sen.task import Task, Template

TASK = Task(
    name="annotate",
    answer="label",
    target="cell_type",
    templates=(
        Template(
            prompt=(
                "Below are the {n_genes} most expressed genes of one {organism} cell, strongest first.\n"
                "Cell sentence: {genes}.\n"
                "The type of this cell is:"
            ),
            answer=" {cell_type}.",
        ),
    ),
)
