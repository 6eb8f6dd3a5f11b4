"""interpret: cell sentences of 5 to 20 cells of one sample → a summary, like the abstract of a study."""

from cell2sen.task import Task, Template

TASK = Task(
    name="interpret",
    answer="text",
    target="summary",
    cells=(5, 20),
    templates=(
        Template(
            prompt=(
                "Below are {n_cells} {organism} cells of one sample, each with its {n_genes} most expressed genes, "
                "strongest first.\n"
                "{cells}"
                "Summary of the study that this sample is from:"
            ),
            cell="Cell {number}: {genes}.\n",
            answer=" {summary}",
        ),
    ),
)
