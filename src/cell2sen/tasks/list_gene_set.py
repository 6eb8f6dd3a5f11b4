"""list_gene_set: name of a gene set → its genes in alphabetical order."""

from cell2sen.task import Task, Template

TASK = Task(
    name="list_gene_set",
    answer="genes",
    target="members",
    templates=(
        Template(
            prompt=(
                "Write {n_genes} {organism} genes that belong to one gene set, in alphabetical order. "
                "The name of this gene set is: {gene_set}.\n"
                "Genes:"
            ),
            answer=" {members}.",
        ),
    ),
)
