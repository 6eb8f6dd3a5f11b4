"""ask: cell sentences of 1 to 20 cells and a question → answer."""

from cell2sen.task import Task, Template

TASK = Task(
    name="ask",
    answer="text",
    target="answer",
    cells=(1, 20),
    templates=(
        Template(
            prompt=(
                "Below are {n_cells} {organism} cells, each with its {n_genes} most expressed genes, strongest first.\n"
                "{cells}"
                "Question: {question}\n"
                "Answer:"
            ),
            cell="Cell {number}: {genes}.\n",
            answer=" {answer}",
        ),
    ),
)
