"""sample_cell_types: cell sentences of 5 to 20 cells of one sample → type of each cell, in order."""

from cell2sen.task import Task, Template

TASK = Task(
    name="sample_cell_types",
    answer="labels",
    target="cell_type",
    cells=(5, 20),
    templates=(
        Template(
            prompt=(
                "Below are {n_cells} {organism} cells of one sample, each with its {n_genes} most expressed genes, "
                "strongest first.\n"
                "{cells}"
                "The types of these cells, in the same order, are:"
            ),
            cell="Cell {number}: {genes}.\n",
            answer="{cells}",
            answer_cell="\nCell {number}: {cell_type}.",
        ),
    ),
)
