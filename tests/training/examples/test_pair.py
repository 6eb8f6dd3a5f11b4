"""Pairs: names of their cells, answers with fewer genes, samples that fit into a context."""

from __future__ import annotations

import pytest
import tiny
from sft_trainers import pairs

from cell2sen.prompt import Prompt
from cell2sen.training.examples import pair as module
from cell2sen.training.examples.pair import Pair, PairOfCells, fitted


def test_a_pair_of_cells_is_a_pair() -> None:
    pair = PairOfCells.of("t", lambda n: (Prompt.of_cell(f"{n}:"), " G" * n), 3)
    assert isinstance(pair, Pair)
    task, prompt, completion = pair
    assert (task, prompt.text, completion) == ("t", "3:", " G G G")
    assert pair.shorter(1)[1] == " G"


def test_names_of_cells() -> None:
    prompt = Prompt.of_cell("Genes: ", ("CD4",), ".", key="cell")
    assert Pair("annotate", prompt, " T.").cells == ("cell",)
    assert PairOfCells.named("perturb", prompt, " LYZ.", ["control", "cell", "cell"]).cells == ("control", "cell")
    assert PairOfCells.of("t", lambda n: (prompt, " G" * n), 3, ["a", "b"]).cells == ("a", "b")
    assert PairOfCells.of("t", lambda n: (prompt, " G" * n), 3).cells == ("cell",)


@pytest.mark.parametrize("kind", ["spm", "bytes", "genes"])
@pytest.mark.parametrize("context", [400, 600, 4096])
def test_samples_that_are_not_counted_fit(kind: str, context: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, drawn = tiny.tokens(kind), pairs(20)
    prompts, completions = fitted(drawn, tokens, context)
    monkeypatch.setattr(module, "_is_short", lambda *_: False)
    counted, answers = fitted(drawn, tokens, context)
    assert ([prompt.text for prompt in prompts], completions) == ([prompt.text for prompt in counted], answers)
