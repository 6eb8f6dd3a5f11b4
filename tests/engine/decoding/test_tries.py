"""Gene tries of a tokenizer: first and later genes, tokens that may end an answer."""

from __future__ import annotations

import pytest
import tiny
from tiny import GENES

from cell2sen.engine.decoding import tries as module
from cell2sen.engine.decoding.tries import GeneTries

LISTED = tuple(GENES[:5])


@pytest.mark.parametrize("kind", ["spm", "bytes", "genes"])
def test_genes_are_tokenized_as_after_the_prompt(kind: str) -> None:
    tokens = tiny.tokens(kind)
    tries = GeneTries(tokens, tokens.eos)
    same, line = tries.trie(LISTED, "Cell sentence:"), tries.trie(LISTED, "Genes:\n")
    assert same.first_root == 0, "a first gene has the tokens of a later one"
    assert line.first_root == 1, "at the beginning of a line it has no space"
    for trie, before in ((same, "Cell sentence: "), (line, "Genes:\n")):
        for gene, symbol in enumerate(LISTED):
            ids = trie.token[trie.nodes[trie.first_root, gene]]
            assert tokens.ids([before])[0][:1] + ids[ids >= 0].tolist(), symbol
            assert tokens.text(ids[ids >= 0].tolist()).strip() == symbol


def test_tries_are_kept_for_equal_beginnings(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = GeneTries(tiny.tokens("bytes"), [0])
    first = tries.trie(LISTED, "one sentence:")
    assert tries.trie(LISTED, "another sentence:") is first
    assert tries.trie(LISTED, "the cell is") is first, "also tokenized as a later gene"
    assert tries.trie(tuple(GENES[:6]), "one sentence:") is not first
    monkeypatch.setattr(module, "_MAX_TRIES", 3)
    for last in range(7, 12):
        tries.trie(tuple(GENES[:last]), "x")
    assert tries.trie(LISTED, "one sentence:") is not first


def test_prompts_that_end_in_whitespace() -> None:
    tries = GeneTries(tiny.tokens("bytes"), [0])
    for text in ("a ", "a\n\n", "a\t"):
        with pytest.raises(ValueError, match="must not end in whitespace"):
            tries.trie(LISTED, text)


def test_ends() -> None:
    tokens = tiny.tokens("bytes")
    [stop], [line] = tokens.ids(["."])[0], tokens.ids(["\n"])[0]
    assert GeneTries(tokens, [0]).ends("CD4") == sorted({0, stop})
    assert GeneTries(tokens, []).ends("CD4", ["\n"]) == sorted({stop, line})
