"""What backends of engines that take ids share: rows, cutting, reading back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tiny import GENES, prompts

from cell2sen.backend import Sampling
from cell2sen.engine.serving.token_backend import Row, TokenBackend, read_checkpoint
from cell2sen.model import Model
from cell2sen.prompt import Prompt


class Parrot(TokenBackend):
    """Answers as it is told, and remembers what it was asked."""

    answers: Sequence[Any] = ()
    rows: Sequence[Row] = ()

    def _vectors(self, rows: Sequence[Row]) -> list[Any]:
        return [np.full(32, len(row.ids), dtype=np.float32) for row in rows]

    def _write(self, rows: Sequence[Row], requests: Any, sampling: Sampling) -> list[Any]:
        return list(self.answers)

    def _write_guided(self, rows: Sequence[Row], requests: Any) -> list[Any]:
        self.rows = rows
        return list(self.answers)

    def _log_probabilities(self, rows: Sequence[Row]) -> list[float]:
        self.rows = rows
        return [-float(len(row.ids) - row.answer) for row in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("model"), "gemma2", "spm")


@pytest.fixture
def parrot(folder: Path) -> Parrot:
    model = Model(name="tiny", path=str(folder), stop=("<ctrl100>",))
    return Parrot(model, read_checkpoint(model), context=200)


def test_checkpoint_without_weights(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    model = Model(name="tiny", path=str(tmp_path))
    read = read_checkpoint(model)
    assert read.config.hidden_size == 32
    assert read.eos == {read.tokens.tokenizer.token_to_id("<eos>")}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert read_checkpoint(model).eos == {*read.eos, 5, 6}
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config.json and tokenizer.json.*pass it as the model"):
        read_checkpoint(model)


def test_one_token_is_left_for_the_engine(parrot: Parrot, folder: Path) -> None:
    assert parrot.context == 199
    assert parrot.softcap == 4.0
    model = Model(name="tiny", path=str(folder))
    assert Parrot(model, read_checkpoint(model), context=10_000).context == tiny.CONTEXT - 1


def test_free_answers_end_where_the_loop_ends_them(parrot: Parrot) -> None:
    cells = prompts(1)
    tokens = parrot.tokens
    [eos], [control] = ([tokens.tokenizer.token_to_id(name)] for name in ("<eos>", "<ctrl100>"))
    words, more = tokens.ids([" T cell.", "\nB cell"])
    sampling = Sampling(max_new_tokens=50)
    for ids, expected in [
        ([*words, eos, *more], "T cell."),
        ([*words, control, *more], "T cell."),
        ([*words, *more], "T cell.\nB cell"),
    ]:
        parrot.answers = [ids]
        assert parrot.generate(cells, sampling) == [expected]
    assert parrot.generate(cells, Sampling(max_new_tokens=50, stop=("\n",))) == ["T cell."]
    assert parrot.generate(cells, Sampling(max_new_tokens=1)) == [tokens.text(words[:1]).strip()]
    parrot.answers = [" T cell.\nB"]  # text of a server without ids
    assert parrot.generate(cells, Sampling(stop=("\n",))) == ["T cell."]


def test_an_answer_that_ends_too_early(parrot: Parrot) -> None:
    [cell] = prompts(1)
    trie = parrot.tries.trie(tuple(GENES), cell.text)
    genes = [trie.token[trie.path[gene]] for gene in range(4)]
    parrot.answers = [[int(token) for ids in genes[2:4] for token in ids if token >= 0]]
    with pytest.raises(ValueError, match=r"'cell0' ended after \d of 3 genes, at the context of 199 tokens"):
        parrot.generate([cell], Sampling(), genes=GENES)


def test_rows_to_score(parrot: Parrot) -> None:
    cells = prompts(2)
    answers = [" T cell.", "", " monocyte"]
    scores = parrot.score(cells, answers)
    assert [row.text for row in parrot.rows] == [cell.text + answer for cell in cells for answer in answers if answer]
    for row in parrot.rows:
        expected = parrot.tokens.encode([Prompt.of_cell(row.text)])[0].ids.tolist()
        assert row.ids == expected
        assert parrot.tokens.text(row.ids[row.answer :]) == row.text[row.prompt :]
    lengths = [len(row.ids) - row.answer for row in parrot.rows]
    assert scores.tolist() == [[-lengths[0], 0, -lengths[1]], [-lengths[2], 0, -lengths[3]]]


def test_prompts_without_text(parrot: Parrot) -> None:
    parrot.tokens._assembler.bos = parrot.tokens.bos = None
    with pytest.raises(ValueError, match="'nothing' has no text"):
        parrot.embed([Prompt.of_cell("", key="nothing")])
    with pytest.raises(ValueError, match="'nothing' has no token before the answer"):
        parrot.score([Prompt.of_cell("", key="nothing")], [" T"])
