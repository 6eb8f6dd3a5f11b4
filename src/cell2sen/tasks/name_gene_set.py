"""name_gene_set: genes of a set in alphabetical order → name of the set."""

from cell2sen.task import Task, Template

TASK = Task(
    name="name_gene_set",
    answer="text",
    target="gene_set",
    templates=(
        Template(
            prompt=(
                "Below are {n_genes} {organism} genes that belong together, in alphabetical order.\n"
                "Genes: {members}.\n"
                "The name of this gene set is:"
            ),
            answer=" {gene_set}.",
        ),
    ),
)
