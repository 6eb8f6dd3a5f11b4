"""niche: cell sentence of a cell in a tissue → its niche (layer, region)."""

from cell2sen.task import Task, Template

TASK = Task(
    name="niche",
    answer="label",
    target="niche",
    templates=(
        Template(
            prompt=(
                "Below are the {n_genes} most expressed genes of one {organism} cell of a tissue section, strongest "
                "first.\n"
                "Cell sentence: {genes}.\n"
                "The niche of this cell is:"
            ),
            answer=" {niche}.",
        ),
    ),
)
