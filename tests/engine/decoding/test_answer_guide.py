"""The guide of one answer writes what the loop of this package writes, whatever order it is asked in."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import tiny
import torch
from tiny import GENES, prompts

from cell2sen.backend import Sampling
from cell2sen.engine.decoding.answer_guide import ANSWER, AnswerGuide, AnswerRequest
from cell2sen.engine.decoding.answer_guide import GENES as GENES_ARGUMENT
from cell2sen.engine.decoding.gene_trie import GeneTrie
from cell2sen.engine.decoding.sampling import row_key

END = 9
#: Tokens: CD4, CD44 (begins with CD4), B2M, LYZ.
LATER = [[1, 2], [1, 2, 2], [3], [4, 5]]


def request(n_genes: int = 2, first: list[list[int]] | None = None, **options: object) -> AnswerRequest:
    trie = GeneTrie(["CD4", "CD44", "B2M", "LYZ"], LATER, first)
    return AnswerRequest(key=7, trie=trie, n_genes=n_genes, ends=(8, END), end=END, **options)  # type: ignore[arg-type]


def allowed(guide: AnswerGuide, *written: int) -> list[int]:
    tokens = guide.allowed(written)
    assert tokens is not None
    return tokens.tolist()


def test_tokens_from_the_ids_so_far() -> None:
    guide = AnswerGuide(request(), 10)
    assert allowed(guide) == [1, 3, 4]
    assert allowed(guide, 1) == [2]
    assert allowed(guide, 1, 2) == [1, 2, 3, 4], "CD4 is complete, and CD44 may follow or be meant"
    assert allowed(guide, 1, 2, 2) == [1, 3, 4]
    assert allowed(guide, 3, 1, 2) == [1, 2, 4, 8, 9], "the last gene may end, also by the beginning of another"
    assert allowed(guide, 3, 1, 2, 8) == [END]
    assert allowed(guide, 3, 4, 5) == [END], "nothing follows LYZ"
    assert not guide.is_done([3, 1, 2])
    assert guide.is_done([3, 4, 5])
    assert guide.is_done([3, 1, 2, 4])
    assert AnswerGuide(AnswerRequest(key=7), 10).allowed([1, 2]) is None


def test_any_order_of_calls_gives_the_same() -> None:
    answers = [[], [3], [3, 1], [3, 1, 2], [1], [1, 2], [1, 2, 4], [1, 2, 4, 5], [4, 5, 3]]
    fresh = {tuple(written): allowed(AnswerGuide(request(), 10), *written) for written in answers}
    guide = AnswerGuide(request(), 10)
    for first, second in itertools.product(answers, repeat=2):
        for written in (first, second):
            assert allowed(guide, *written) == fresh[tuple(written)]


def test_what_is_no_beginning_of_an_answer() -> None:
    guide = AnswerGuide(request(), 10)
    for wrong in ([2], [3, 3], [1, 2, END]):
        with pytest.raises(ValueError, match="not allowed"):
            guide.allowed(wrong)
        assert allowed(guide, 3) == [1, 4], "and the guide can still be used"


def test_genes_of_an_answer() -> None:
    guide = AnswerGuide(request(), 10)
    assert guide.genes([3, 1, 2, 8, END]) == [2, 0]
    assert guide.genes([3, 1, 2]) == [2, 0], "the engine left out the end"
    assert guide.genes([3, 1, 2, 2, 5, 5, 5]) == [2, 1]
    assert guide.genes([3, 1]) == [2], "cut off within a gene"


def test_arguments_for_another_process() -> None:
    first = [[6], [6, 6], [7], [5]]
    for own in (request(), request(first=first, temperature=0.5, top_k=3, top_p=0.25), AnswerRequest(key=-(2**63))):
        arguments = json.loads(json.dumps(own.arguments()))
        assert all(isinstance(value, str) for value in arguments.values())
        read = AnswerRequest.read(arguments | {"other": 1})
        assert read is not None
        for name in ("key", "temperature", "top_k", "top_p", "n_genes", "ends", "end"):
            assert getattr(read, name) == getattr(own, name)
        for written in ([], [6], [1], [3]) if own.trie else ():
            results = []
            for each in (own, read):
                try:
                    results.append(allowed(AnswerGuide(each, 10), *written))
                except ValueError:
                    results.append([])
            assert results[0] == results[1]
    assert AnswerRequest.read(None) is None
    assert AnswerRequest.read({"other": 1}) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {ANSWER: "?"},
        {ANSWER: 3},
        {ANSWER: "{}"},
        request().arguments() | {GENES_ARGUMENT: "AAAA"},
        request(n_genes=5).arguments(),
    ],
)
def test_arguments_that_cannot_be_read(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{ANSWER} cannot be read"):
        AnswerRequest.read(wrong)


def test_the_longest_answer() -> None:
    assert request(n_genes=2).max_tokens == 3 + 2 + 2
    assert request(n_genes=2, first=[[1] * 6, [2], [3], [4]]).max_tokens == 6 + 3 + 2


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=6),
        Sampling(temperature=1.0, seed=3, max_new_tokens=6),
        Sampling(temperature=1.5, top_k=20, top_p=0.9, max_new_tokens=6),
    ],
    ids=["greedy", "drawn", "top"],
)
@pytest.mark.parametrize("guided", [True, False])
def test_equals_the_loop(sampling: Sampling, guided: bool) -> None:
    cells = prompts(3)
    own = tiny.backend("gemma2", "spm")
    network = tiny.network("gemma2", own.tokens.tokenizer.get_vocab_size(), implementation="eager")
    expected = own.generate(cells, sampling, genes=GENES if guided else None)
    for cell, text in zip(cells, expected, strict=True):
        tries = own.generator.tries
        answer = AnswerRequest(
            key=row_key(sampling.seed, cell.key),
            temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p,
            trie=tries.trie(tuple(GENES), cell.text) if guided else None,
            n_genes=cell.answer_genes or 0 if guided else 0,
            ends=tuple(tries.ends(GENES[0])), end=min(own.eos),
        )  # fmt: skip
        guide = AnswerGuide(answer, own.tokens.tokenizer.get_vocab_size())
        [row] = own.tokens.encode([cell])
        written: list[int] = []
        while len(written) < (answer.max_tokens if guided else 6) and not set(written) & own.eos:
            with torch.no_grad():
                logits = network(torch.tensor([[*row.ids.tolist(), *written]])).logits[0, -1].float()
            token = guide.choose(logits, written)
            guide.force(logits, written)
            assert int(logits.argmax()) == token
            assert np.isneginf(np.delete(logits.numpy(), token)).all()
            written.append(token)
        if guided:
            assert " ".join(GENES[gene] for gene in guide.genes(written)) == text
        else:
            assert own.tokens.text(written).strip() == text
