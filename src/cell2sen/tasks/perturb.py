"""perturb: cell sentence of a control cell + perturbation → cell sentence after it."""

from cell2sen.task import Task, Template

TASK = Task(
    name="perturb",
    answer="sentences",
    target="sentence",
    templates=(
        Template(
            prompt=(
                "Below are the {n_genes} most expressed genes of one untreated {organism} cell, strongest first. "
                "Say how they are ordered after this perturbation: {perturbation}.\n"
                "Cell sentence: {genes}.\n"
                "Cell sentence after {perturbation}:"
            ),
            answer=" {sentence}.",
        ),
    ),
)
