"""write_cell: organism alone → cell sentence; unconditional language modelling of one cell."""

from cell2sen.task import Task, Template

TASK = Task(
    name="write_cell",
    answer="sentences",
    target="sentence",
    templates=(
        Template(
            prompt=(
                "Write the {n_genes} most expressed genes of one {organism} cell, strongest first.\nCell sentence:"
            ),
            answer=" {sentence}.",
        ),
    ),
)
