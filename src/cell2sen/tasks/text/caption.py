"""caption: cell sentences of 2 cells of a cluster → a sentence on that cluster."""

from cell2sen.task import Task, Template

TASK = Task(
    name="caption",
    answer="text",
    target="caption",
    cells=(2, 2),
    templates=(
        Template(
            prompt=(
                "Below are {n_cells} {organism} cells of one cluster, each with its {n_genes} most expressed genes, "
                "strongest first.\n"
                "{cells}"
                "These cells in one sentence:"
            ),
            cell="Cell {number}: {genes}.\n",
            answer=" {caption}",
        ),
    ),
)
