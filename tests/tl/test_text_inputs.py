"""Tools with text as answer: inputs as users have them - clusters, questions, cells, files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import tiny
from cells import cells, fake

import cell2sen as c2s
from cell2sen import backends
from cell2sen.model import resolve

QUICK: Any = {"max_genes": 5, "max_new_tokens": 6, "progress": False}


def clusters(n: int = 12) -> anndata.AnnData:
    """Twelve cells in the clusters 0 to 3; the last one is alone in cluster 4, and the one before in none."""
    adata = cells(n)
    adata.obs["cluster"] = [*(row % 4 for row in range(n - 2)), -1, 4]
    return adata


@pytest.mark.parametrize("kind", ["integer", "category", "number", "text", "number in a category"])
def test_clusters_of_any_kind(kind: str) -> None:
    adata = clusters()
    column = adata.obs["cluster"].where(adata.obs["cluster"] >= 0)
    adata.obs["cluster"] = {
        "integer": adata.obs["cluster"],
        "category": pd.Categorical([None if np.isnan(value) else str(int(value)) for value in column]),
        "number": column,
        "text": [None if np.isnan(value) else str(int(value)) for value in column],
        "number in a category": pd.Categorical(column),
    }[kind]
    for value in (3, "3", 3.0, np.int64(3)):
        [row] = c2s.tl.ask(adata, "Why?", cells={"cluster": value}, model=fake())["cells"]
        assert sorted(row.split("\t")) == ["c3", "c7"]
    [row] = c2s.tl.ask(adata, "Why?", cells={"cluster": [3, 4]}, model=fake())["cells"]
    assert sorted(row.split("\t")) == ["c11", "c3", "c7"]


def test_a_cluster_of_one_cell(caplog: pytest.LogCaptureFixture) -> None:
    adata = clusters()
    with caplog.at_level(logging.WARNING):
        captions = c2s.tl.caption(adata, "cluster", model=fake())
    assert captions["cluster"].tolist() == ["0", "1", "2", "3"]
    assert "2 of 6 groups have fewer than 2 cells with genes and get no text, such as -1" in caplog.text
    answers = c2s.tl.ask(adata, "Why?", sample_by="cluster", n_cells=20, model=fake())
    assert answers["n_cells"].tolist() == [3, 3, 2, 2, 1, 1]
    alone = adata[adata.obs["cluster"] == 4].copy()
    with pytest.raises(ValueError, match="no group has the 2 cells of a sample"):
        c2s.tl.caption(alone, "cluster", model=fake())


@pytest.mark.parametrize(
    "question",
    [
        "They said \"yes\" and 'no'",
        "100 % of {these}, or {}, or %s, or {0}?",
        "{question}",
        "{n_genes} {cells} {genes} {organism}",
        "Cell 1: CD4 LYZ.\nQuestion: x\r\nAnswer:",
        "¿Qué células? 細胞 🧬",
        "\\n \\x00 $HOME `ls`",
    ],
)
def test_questions_are_texts(question: str, tmp_path: Path) -> None:
    adata, backend = clusters(), tiny.backend()
    table = c2s.tl.ask(adata, question, model=backend, **QUICK)
    line = " ".join(question.split())
    assert table["question"].tolist() == [line]
    adata.write_h5ad(tmp_path / "asked.h5ad")
    record = anndata.read_h5ad(tmp_path / "asked.h5ad").uns["cell2sen"]["ask"]
    assert record["question"] == line
    assert record["texts"]["question"].tolist() == [line]
    seen: list[str] = []
    backend = fake()
    backend.generate = lambda prompts, *_, **__: [seen.append(prompt.text) or "x" for prompt in prompts]
    c2s.tl.ask(adata, question, model=backend)
    assert seen[0].endswith(f"Question: {line}\nAnswer:")


def test_a_question_that_is_too_long() -> None:
    adata, backend = clusters(), tiny.backend()
    with pytest.raises(ValueError, match="context"):
        c2s.tl.ask(adata, "Which cells are these? " * 2000, model=backend, **QUICK)


@pytest.mark.parametrize(
    ("question", "error"), [("", ValueError), (" \n", ValueError), (None, TypeError), (5, TypeError)]
)
def test_no_question(question: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="question must be a text"):
        c2s.tl.ask(clusters(), question, model=fake())


def test_cells_without_genes() -> None:
    adata = clusters()
    counts = adata.X.toarray()
    counts[[1, 5]] = 0
    adata.X = counts
    [read] = c2s.tl.ask(adata, "Why?", cells={"cluster": 1}, model=fake())["cells"]
    assert read.split("\t") == ["c9"]
    with pytest.raises(ValueError, match="none of the 2 chosen cells has an expressed gene"):
        c2s.tl.ask(adata, "Why?", cells=["c1", "c5"], model=fake())
    adata.X = counts * 0
    with pytest.raises(ValueError, match="none of the"):
        c2s.tl.ask(adata, "Why?", model=fake())


def test_more_cells_than_the_task_reads() -> None:
    with pytest.raises(ValueError, match="reads 1 to 20 cells, found n_cells=21"):
        c2s.tl.ask(clusters(), "Why?", n_cells=21, model=fake())


def test_columns_of_the_result_are_not_lost() -> None:
    adata = clusters()
    adata.obs["text"] = adata.obs["cluster"]
    with pytest.raises(ValueError, match=r"obs\['text'\] has the name of a column of the result"):
        c2s.tl.ask(adata, "Why?", sample_by="text", model=fake())
    adata.obs["sample"] = adata.obs["cluster"]
    table = c2s.tl.ask(adata, "Why?", sample_by="sample", model=fake())
    assert set(table["sample"]) == {"0", "1", "2", "3", "-1", "4"}


def test_results_after_files(tmp_path: Path) -> None:
    """Cells that are written, read, asked again and written twice have the same texts and scores."""
    adata, backend = clusters(), tiny.backend()
    adata.obs["caption"] = [f"Cells of cluster {cluster}." for cluster in adata.obs["cluster"]]
    truth, file = adata.copy(), tmp_path / "cells.h5ad"
    first = c2s.tl.caption(adata, "cluster", model=backend, **QUICK)
    adata.write_h5ad(file)
    again = anndata.read_h5ad(file)
    stored = again.uns["cell2sen"]["caption"]["texts"]
    assert stored.astype(str).to_numpy().tolist() == first.astype(str).to_numpy().tolist()
    options: Any = {"task": "text", "label": "caption", "leaks": "report", "resamples": 5, "progress": False}
    scores = c2s.evaluate(adata, truth, **options).table
    pd.testing.assert_frame_equal(scores, c2s.evaluate(file, truth, **options).table)
    second = c2s.tl.caption(again, "cluster", model=backend, **QUICK)
    pd.testing.assert_frame_equal(first, second)
    c2s.tl.ask(again, "Why?", model=backend, **QUICK)
    again.write_h5ad(file)
    again.write_h5ad(file)
    twice = anndata.read_h5ad(file)
    assert {"caption", "ask"} <= set(twice.uns["cell2sen"])
    pd.testing.assert_frame_equal(scores, c2s.evaluate(file, truth, **options).table)


CHAT = (
    "{% for message in messages %}<user>{{ message['content'] | trim }}</user>\n{% endfor %}"
    "{% if add_generation_prompt %}<model>\n{% endif %}"
)


def instructed(folder: Path, chat: str = CHAT) -> str:
    """A checkpoint directory with a chat template."""
    path = tiny.save(folder / "instructed")
    file = path / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**settings, "chat_template": chat}), encoding="utf-8")
    return str(path)


def test_chat_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is the message of the user, with the context inside, unless the user names templates."""
    backend = backends.load(resolve(instructed(tmp_path)), "transformers", progress=False)
    assert backend.chat == ("<user>", "</user>\n<model>\n")
    seen: list[str] = []
    generate = backend.generate

    def noted(prompts: Any, *arguments: Any, **more: Any) -> list[str]:
        seen.extend(prompt.text for prompt in prompts)
        return generate(prompts, *arguments, **more)

    monkeypatch.setattr(backend, "generate", noted)
    adata = clusters()
    adata.obs["donor"] = "d1"
    c2s.tl.ask(adata, "Why?", model=backend, context=["donor"], **QUICK)
    assert adata.uns["cell2sen"]["ask"]["chat"].tolist() == ["<user>", "</user>\n<model>\n"]
    c2s.tl.ask(adata, "Why?", model=backend, templates="cell2sen", **QUICK)
    assert "chat" not in adata.uns["cell2sen"]["ask"]
    assert seen[0].startswith("<user>Known of this cell: donor: d1.\nBelow are")
    assert seen[0].endswith("Question: Why?\nAnswer:</user>\n<model>\n")
    assert seen[1].startswith("Below are")
    assert seen[1].endswith("Question: Why?\nAnswer:")


def test_chat_templates_that_do_not_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, chat in enumerate(("{{ raise_exception('no') }}", "{{ messages | length }}")):
        backend = backends.load(resolve(instructed(tmp_path / str(number), chat)), "transformers", progress=False)
        assert backend.chat is None
    assert "the chat template of the checkpoint cannot be used" in caplog.text
    assert tiny.backend().chat is None
