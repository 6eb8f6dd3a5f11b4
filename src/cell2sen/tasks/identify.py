"""identify: cell sentence → perturbation (the control's name for unperturbed cells)."""

from cell2sen.task import Task, Template

TASK = Task(
    name="identify",
    answer="label",
    target="perturbation",
    templates=(
        Template(
            prompt=(
                "Below are the {n_genes} most expressed genes of one {organism} cell, strongest first. "
                "Say what was done to this cell.\n"
                "Cell sentence: {genes}.\n"
                "The perturbation of this cell is:"
            ),
            answer=" {perturbation}.",
        ),
    ),
)
