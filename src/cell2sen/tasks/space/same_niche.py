"""same_niche: cell sentences of 2 to 20 cells → whether they have the same niche label."""

from cell2sen.task import Task, Template

TASK = Task(
    name="same_niche",
    answer="yes_no",
    target="same_niche",
    cells=(2, 20),
    space="same_niche",
    templates=(
        Template(
            prompt=(
                "Below are {n_cells} {organism} cells of one tissue section, each with its {n_genes} most expressed "
                "genes, strongest first.\n"
                "{cells}"
                "Are these cells of one niche, yes or no:"
            ),
            cell="Cell {number}: {genes}.\n",
            answer=" {same_niche}.",
        ),
    ),
)
