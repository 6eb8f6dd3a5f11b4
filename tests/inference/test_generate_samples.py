from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny

from cell2sen.backend import Backend, Sampling
from cell2sen.inference.generate import write_cells
from cell2sen.prompt import Prompt
from cell2sen.task import Task, Template

pytestmark = pytest.mark.slow

SAMPLE = Task(
    name="sample",
    answer="sentences",
    target="sentence",
    templates=(
        Template(
            prompt="Write {n_genes} genes of each of {n_cells} cells of {tissue}:",
            answer="{cells}",
            answer_cell="\nCell {number}: {sentence}.",
        ),
    ),
)
#: Cells in lines of their own, as the authors of C2S write them.
LINES = SAMPLE.reworded(
    [replace(SAMPLE.templates[0], answer=" {cells}.", answer_cell="Cell {number}:\n{sentence}.\n")], "test"
)
DRAWN = Sampling(temperature=1.0, seed=2)


def requests(n_cells: int, n: int = 3) -> list[Prompt]:
    cells: dict[str, Any] = {str(cell): () for cell in range(n_cells)}
    return [
        SAMPLE.prompt(tissue=tissue, cells=cells, key=tissue, answer_genes=3) for tissue in ("blood", "lung", "gut")[:n]
    ]


@pytest.mark.parametrize("n_cells", [1, 2, 20])
@pytest.mark.parametrize("task", [SAMPLE, LINES], ids=["joined", "lines"])
@pytest.mark.parametrize("sampling", [Sampling(), DRAWN])
def test_cells_equal_those_behind_plain_text(
    any_backend: Backend, n_cells: int, task: Task, sampling: Sampling
) -> None:
    prompts = requests(n_cells)
    written = write_cells(any_backend, task, prompts, sampling, genes=tiny.GENES, n_cells=n_cells)
    for prompt, sentences in zip(prompts, written, strict=True):
        assert [sentence.n_words for sentence in sentences] == [3] * n_cells
        assert all(sentence.validity == sentence.uniqueness == 1 for sentence in sentences)
        openings, text = task.openings(n_cells), prompt.text
        for number, sentence in enumerate(sentences):
            text += openings[number].rstrip(" ")
            plain = Prompt.of_cell(text, key=f"{prompt.key}/{number}", answer_genes=3)
            [answer] = any_backend.generate([plain], sampling, genes=tiny.GENES)
            assert tuple(answer.split()) == sentence.genes
            text += ("" if text.endswith("\n") else " ") + answer.strip()
        complete = task.complete(n_cells=n_cells, sentence=[" ".join(sentence.genes) for sentence in sentences])
        assert prompt.text + complete == text + openings[-1]


@pytest.mark.parametrize("sampling", [Sampling(), DRAWN])
def test_a_sample_depends_on_no_other(any_backend: Backend, sampling: Sampling) -> None:
    prompts = requests(2)
    together = write_cells(any_backend, SAMPLE, prompts, sampling, genes=tiny.GENES, n_cells=2)
    alone = [write_cells(any_backend, SAMPLE, [prompt], sampling, genes=tiny.GENES, n_cells=2)[0] for prompt in prompts]
    backwards = write_cells(any_backend, SAMPLE, prompts[::-1], sampling, genes=tiny.GENES, n_cells=2)[::-1]
    assert together == alone == backwards


def test_more_than_fits_is_cut_and_written_all_the_same() -> None:
    backend = tiny.backend("gpt_neox", "bytes")
    prompts = [replace(prompt, answer_genes=40) for prompt in requests(4, 1)]
    [sentences] = write_cells(backend, SAMPLE, prompts, Sampling(), genes=tiny.GENES, n_cells=4)
    assert [len(set(sentence.genes)) for sentence in sentences] == [40] * 4
