"""language_model: organism alone → cell sentence; unconditional language modelling of one cell."""

from cell2sen.task import Task, Template

TASK = Task(
    name="language_model",
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
