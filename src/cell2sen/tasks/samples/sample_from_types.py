"""sample_from_types: type of each cell → cell sentences of these cells of one sample."""

from cell2sen.task import Task, Template

TASK = Task(
    name="sample_from_types",
    answer="sentences",
    target="sentence",
    cells=(1, 20),
    templates=(
        Template(
            prompt=(
                "Write the {n_genes} most expressed genes of each of {n_cells} {organism} cells of one sample, "
                "strongest first. The types of these cells are:\n"
                "{cells}"
                "Cell sentences:"
            ),
            cell="Cell {number}: {cell_type}.\n",
            answer="{cells}",
            answer_cell="\nCell {number}: {sentence}.",
        ),
    ),
)
