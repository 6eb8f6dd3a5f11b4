"""Scores of held-out gene sets on the model card."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import training_runs

from cell2sen.data.genes.gene_sets import write_gmt
from cell2sen.training.config.data import GeneSetFile
from cell2sen.training.examples.gene_sets import TrainingSets
from cell2sen.training.release.scorecard import as_markdown
from cell2sen.training.release.set_scores import set_scores


@pytest.mark.slow
def test_scores_of_held_out_sets(tmp_path: Path) -> None:
    model = training_runs.checkpoint(tmp_path / "model", "gpt_neox", "bytes")
    genes = [gene for gene in tiny.GENES if gene.isascii() and gene.isupper()]
    write_gmt(tmp_path / "sets.gmt", {f"SET {number}": genes[number : number + 4] for number in range(20)})
    sets = TrainingSets(GeneSetFile(file="sets.gmt", test=0.25), tmp_path, "keep")
    scores = set_scores(model, [sets], 3)
    assert {(entry["task"], entry["metric"]) for entry in scores} == {
        ("name_gene_set", "exact_name"),
        ("name_gene_set", "word_f1"),
        ("list_gene_set", "set_overlap"),
        ("list_gene_set", "set_jaccard"),
    }
    assert {entry["n_cells"] for entry in scores} == {3}
    assert "| sets.gmt, 3 sets | list_gene_set | set_overlap |" in as_markdown(scores)
    assert set_scores(model, [sets], 0) == []
