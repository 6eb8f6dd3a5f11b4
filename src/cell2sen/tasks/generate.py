"""generate: cell type → cell sentence."""

from cell2sen.task import Task, Template

TASK = Task(
    name="generate",
    answer="sentences",
    target="sentence",
    templates=(
        Template(
            prompt=(
                "Write the {n_genes} most expressed genes of one {organism} cell, strongest first. "
                "The type of this cell is: {cell_type}.\n"
                "Cell sentence:"
            ),
            answer=" {sentence}.",
        ),
    ),
)
