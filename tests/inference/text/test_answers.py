"""Free text on samples: against plain text, stop rules, models that write none."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import tiny
from cells import cells, fake

from cell2sen import tasks
from cell2sen.backend import Sampling, Unsupported
from cell2sen.inference.session import Session, start
from cell2sen.inference.text.answers import (
    refuse_without_text,
    sampling_of,
    text_samples,
    write_texts,
    writes_text,
)
from cell2sen.model import Model, resolve
from cell2sen.prompt import Prompt

DRAWN = Sampling(temperature=0.7, top_k=30, top_p=0.9, seed=4, max_new_tokens=12)


def opened(task: str = "ask", backend: Any = None) -> Session:
    adata = cells(12)
    adata.obs["donor"] = pd.Categorical([f"d{row % 2}" if row < 11 else None for row in range(12)])
    options: Any = {"model": backend or tiny.backend(), "max_genes": 5, "progress": False}
    return start(adata, task, options, obs_columns=["donor"])


def test_texts_equal_those_behind_plain_text() -> None:
    session = opened()
    samples = text_samples(session, ["donor"], n_cells=3, n_samples=None)
    assert [len(sample) for sample in samples] == [3, 3, 3, 2]  # six and five cells
    slots = {"question": "What are these?"}
    answers = write_texts(session, samples, [slots] * len(samples), DRAWN)
    for sample, answer in zip(samples, answers, strict=True):
        names = session.sentences.names[sample]
        lines = [
            f"Cell {number}: {' '.join(session.sentences.gene_names(5)[row])}." for number, row in enumerate(sample, 1)
        ]
        text = (
            f"Below are {len(sample)} Homo sapiens cells, each with its 5 most expressed genes, strongest first.\n"
            + "\n".join(lines)
            + "\nQuestion: What are these?\nAnswer:"
        )
        [plain] = session.backend.generate([Prompt.of_cell(text, key=f"{names[0]}/What are these?")], DRAWN)
        assert answer.text == " ".join(plain.split())
        assert answer.slots == slots
    assert len({answer.text for answer in answers}) == len(answers)


def test_a_text_depends_on_its_sample_alone() -> None:
    session = opened()
    samples = text_samples(session, ["donor"], n_cells=2, n_samples=None)
    slots = [{"question": f"Number {place}?"} for place in range(len(samples))]
    together = write_texts(session, samples, slots, DRAWN)
    alone = [write_texts(session, [sample], [values], DRAWN)[0] for sample, values in zip(samples, slots, strict=True)]
    assert [answer.text for answer in together] == [answer.text for answer in alone]


@pytest.mark.parametrize(
    ("task", "written", "kept"),
    [
        ("caption", "T cells.\nMore.", "T cells."),
        ("ask", "Yes.\nThey are.\nQuestion: Why?", "Yes.\nThey are."),
        ("interpret", "We studied.\nCells.\n\nMethods", "We studied.\nCells."),
    ],
)
def test_stop_rules(task: str, written: str, kept: str) -> None:
    """Of the strings that end a text, the first one in it does."""
    sampling = sampling_of(tasks.load(task), Sampling(stop=("<ctrl100>",)))
    assert "<ctrl100>" in sampling.stop
    ends = [written.find(string) for string in sampling.stop if string in written]
    assert written[: min(ends)] == kept


def test_texts_that_were_cut_are_marked() -> None:
    backend = fake()
    session = opened(backend=backend)
    samples = text_samples(session, [], n_cells=3)
    for words, complete in ((12, False), (5, True)):
        backend.generate = lambda prompts, *_, words=words, **__: [" ".join(["word"] * words)] * len(prompts)
        [answer] = write_texts(session, samples, [{"question": "Why?"}], DRAWN)
        assert answer.complete == complete


def test_models_without_text_are_refused() -> None:
    with pytest.raises(Unsupported, match="nano was not trained to write text, only on annotate, generate, perturb"):
        refuse_without_text(resolve("nano"), "ask")
    template = [{"prompt": "{cells}:", "cell": "{genes}", "answer": " {caption}"}]
    assert writes_text(Model(name="m", path="m", metadata={"templates": {"caption": template}}))
    assert writes_text(Model(name="m", path="m"))
    assert writes_text(resolve("gemma-2-2b"))
    assert not writes_text(Model(name="m", path="m", metadata={"templates": {"annotate": template}}))


def test_samples_are_within_the_limits_of_the_task() -> None:
    with pytest.raises(ValueError, match="'caption' reads 2 cells, found n_cells=3"):
        text_samples(opened("caption"), ["donor"], n_cells=3)
    with pytest.raises(ValueError, match="'interpret' reads 5 to 20 cells, found n_cells=4"):
        text_samples(opened("interpret"), ["donor"], n_cells=4)
    session = opened()
    mask = session.sentences.obs["donor"].eq("d1").to_numpy()
    [sample] = text_samples(session, [], n_cells=20, cells=mask)
    assert set(sample.tolist()) == {1, 3, 5, 7, 9}
