"""same_neighbourhood: cell sentences of 2 to 20 cells → whether they are neighbours in the tissue."""

from cell2sen.task import Task, Template

TASK = Task(
    name="same_neighbourhood",
    answer="yes_no",
    target="same_neighbourhood",
    cells=(2, 20),
    space="same_neighbourhood",
    templates=(
        Template(
            prompt=(
                "Below are {n_cells} {organism} cells of one tissue section, each with its {n_genes} most expressed "
                "genes, strongest first.\n"
                "{cells}"
                "Are these cells of one neighbourhood, yes or no:"
            ),
            cell="Cell {number}: {genes}.\n",
            answer=" {same_neighbourhood}.",
        ),
    ),
)
