"""neighbour: cell sentences of 1 to 19 cells of a neighbourhood → cell sentence of a further cell of it."""

from cell2sen.task import Task, Template

TASK = Task(
    name="neighbour",
    answer="sentences",
    target="sentence",
    cells=(1, 19),
    space="neighbour",
    templates=(
        Template(
            prompt=(
                "Below are {n_cells} {organism} cells of one neighbourhood of a tissue, each with its {n_genes} most "
                "expressed genes, strongest first.\n"
                "{cells}"
                "Cell sentence of a further cell of this neighbourhood:"
            ),
            cell="Cell {number}: {genes}.\n",
            answer=" {sentence}.",
        ),
    ),
)
