"""tissue: cell sentences of 5 to 20 cells of one sample → tissue."""

from cell2sen.task import Task, Template

TASK = Task(
    name="tissue",
    answer="label",
    target="tissue",
    cells=(5, 20),
    templates=(
        Template(
            prompt=(
                "Below are {n_cells} {organism} cells of one sample, each with its {n_genes} most expressed genes, "
                "strongest first.\n"
                "{cells}"
                "The tissue of these cells is:"
            ),
            cell="Cell {number}: {genes}.\n",
            answer=" {tissue}.",
        ),
    ),
)
