"""Genes per sentence of tasks."""

from cell2sen import tasks
from cell2sen.training.config.lengths import genes_per_sentence


def test_genes_per_sentence_of_each_kind_of_task():
    names = ("annotate", "label:sex", "perturb", "tissue", "same_niche", "list_gene_set")
    loaded = {name: tasks.load(name) for name in names}
    assert list(genes_per_sentence(loaded, {}).values()) == [400, 400, 200, 100, 100, 100]
    given = genes_per_sentence(loaded, {"annotate": 50, "embed": 9})
    assert list(given) == [*names, "embed"]
    assert list(given.values()) == [50, 50, 200, 100, 100, 100, 9]
