"""receptors: ligand → its receptors in alphabetical order; text for trainings on cells in space."""

from cell2sen.task import Task, Template

TASK = Task(
    name="receptors",
    answer="genes",
    target="receptors",
    templates=(
        Template(
            prompt=(
                "Cells that are neighbours signal to each other with ligands and receptors. In {organism} tissue, "
                "name the receptors of the ligand {ligand}, in alphabetical order.\n"
                "Receptors:"
            ),
            answer=" {receptors}.",
        ),
    ),
)
