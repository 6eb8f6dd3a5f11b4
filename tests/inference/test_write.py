from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
from cells import fake

from cell2sen.backend import Backend, Sampling
from cell2sen.inference.write import choose_labels, write_cells
from cell2sen.prompt import Prompt
from cell2sen.task import Task, Template

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
TYPES = Task(
    name="types",
    answer="labels",
    target="cell_type",
    cells=(1, 20),
    templates=(
        Template(
            prompt="{cells}Types:",
            cell="Cell {number}: {genes}.\n",
            answer="{cells}",
            answer_cell="\nCell {number}: {cell_type}.",
        ),
    ),
)
LABELS = ["T cell", "B cell", "NK cell"]
DRAWN = Sampling(temperature=1.0, seed=2)


@pytest.fixture(params=["fake", "transformers"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return fake() if request.param == "fake" else tiny.backend("gpt_neox", "bytes")


def requests(n_cells: int, n: int = 3) -> list[Prompt]:
    cells: dict[str, Any] = {str(cell): () for cell in range(n_cells)}
    return [
        SAMPLE.prompt(tissue=tissue, cells=cells, key=tissue, answer_genes=3) for tissue in ("blood", "lung", "gut")[:n]
    ]


@pytest.mark.parametrize("n_cells", [1, 2, 20])
@pytest.mark.parametrize("sampling", [Sampling(), DRAWN])
def test_cells_equal_those_behind_plain_text(backend: Backend, n_cells: int, sampling: Sampling) -> None:
    prompts = requests(n_cells)
    written = write_cells(backend, SAMPLE, prompts, sampling, genes=tiny.GENES, n_cells=n_cells)
    for prompt, sentences in zip(prompts, written, strict=True):
        assert [sentence.n_words for sentence in sentences] == [3] * n_cells
        assert all(sentence.validity == sentence.uniqueness == 1 for sentence in sentences)
        text = prompt.text
        for number, sentence in enumerate(sentences):
            text += f"{'.' if number else ''}\nCell {number + 1}:"
            plain = Prompt.of_cell(text, key=f"{prompt.key}/{number}", answer_genes=3)
            [answer] = backend.generate([plain], sampling, genes=tiny.GENES)
            assert tuple(answer.split()) == sentence.genes
            text += " " + answer.strip()
        answer = SAMPLE.complete(n_cells=n_cells, sentence=[" ".join(sentence.genes) for sentence in sentences])
        assert prompt.text + answer == text + "."


@pytest.mark.parametrize("sampling", [Sampling(), DRAWN])
def test_a_sample_depends_on_no_other(backend: Backend, sampling: Sampling) -> None:
    prompts = requests(2)
    together = write_cells(backend, SAMPLE, prompts, sampling, genes=tiny.GENES, n_cells=2)
    alone = [write_cells(backend, SAMPLE, [prompt], sampling, genes=tiny.GENES, n_cells=2)[0] for prompt in prompts]
    backwards = write_cells(backend, SAMPLE, prompts[::-1], sampling, genes=tiny.GENES, n_cells=2)[::-1]
    assert together == alone == backwards


def test_more_than_fits_is_cut_and_written_all_the_same() -> None:
    backend = tiny.backend("gpt_neox", "bytes")
    prompts = [replace(prompt, answer_genes=40) for prompt in requests(4, 1)]
    [sentences] = write_cells(backend, SAMPLE, prompts, Sampling(), genes=tiny.GENES, n_cells=4)
    assert [len(set(sentence.genes)) for sentence in sentences] == [40] * 4


@pytest.mark.parametrize("n_cells", [1, 2, 20])
def test_labels_equal_those_behind_plain_text(backend: Backend, n_cells: int) -> None:
    cells = {f"c{cell}": tuple(tiny.GENES[cell : cell + 2]) for cell in range(n_cells)}
    prompts = [
        TYPES.prompt(cells=cells, key="sample"),
        TYPES.prompt(cells={**cells, "c0": ("CD4", "LYZ")}, key="other"),
    ]
    names, scores = choose_labels(backend, TYPES, prompts, LABELS, n_cells=n_cells)
    assert scores.shape == (2, n_cells, 3)
    np.testing.assert_allclose(np.exp(scores).sum(axis=2), 1)
    for prompt, labels, score in zip(prompts, names, scores, strict=True):
        text = prompt.text
        for number, label in enumerate(labels):
            text += f"{'.' if number else ''}\nCell {number + 1}:"
            [plain] = backend.score([Prompt.of_cell(text)], [f" {name}." for name in LABELS])
            assert LABELS[int(plain.argmax())] == label
            np.testing.assert_allclose(score[number], plain - np.logaddexp.reduce(plain), rtol=1e-4, atol=1e-4)
            text += f" {label}"
        assert TYPES.parse(text.partition("Types:")[2]) == labels
