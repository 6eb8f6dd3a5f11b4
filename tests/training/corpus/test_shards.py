"""Rows of shards: texts and tokens as a training has them."""

from __future__ import annotations

import pytest
import tiny

from cell2sen.prompt import Prompt
from cell2sen.training.corpus.shards import SCHEMA, as_table
from cell2sen.training.examples.pair import Pair, PairOfCells
from cell2sen.training.trainers.token_batches import samples


@pytest.mark.parametrize("max_tokens", [120, 4096])
def test_rows_are_those_of_a_training(max_tokens: int) -> None:
    tokens = tiny.tokens("spm")

    def shorter(n_genes: int) -> tuple[Prompt, str]:
        text = "".join(f" Cell {cell}: {' '.join(tiny.GENES[:n_genes])}." for cell in (1, 2))
        return Prompt.of_cell("Cell sentence:", key="first", answer_genes=n_genes), text

    prompt = Prompt.of_cell("Genes: ", tiny.GENES, ". The type is:", key="cell")
    drawn = [
        Pair("annotate", prompt, " T."),
        PairOfCells.named("perturb", prompt, " CD4.", ["control", "cell"]),
        PairOfCells.of("write_sample", shorter, 30, ["first", "second"]),
    ]
    table = as_table(drawn, "study", tokens, max_tokens)
    assert table.schema == SCHEMA
    for row, sample in zip(table.to_pylist(), samples(drawn, tokens, max_tokens), strict=True):
        assert (row["task"], row["prompt"], row["completion"]) == tuple(
            sample[name] for name in ("task", "prompt", "completion")
        )
        assert row["prompt_tokens"] + row["completion_tokens"] + 1 == sample["length"] <= max_tokens
        assert row["data_set"] == "study"
    assert table["cells"].to_pylist() == [["cell"], ["control", "cell"], ["first", "second"]]
