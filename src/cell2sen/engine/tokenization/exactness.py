"""Proof that tokenizing a sentence gene by gene equals tokenizing its text.

Claim: if a text is cut before a single space with a character other than white space on either side, the ids of the
text are the concatenated ids of its parts. Sufficient conditions are N, A, D and one of P and M:

N   The normaliser maps single characters, so that it changes nothing across the cut.
A   No added token can match across the cut.
P   The pre-tokenizer cuts there in every context, and its other cuts do not depend on the other side. Then the model
    never gets both sides at once.
M   The model is BPE over the whole text, and no entry of its vocabulary has the boundary mark (``▁``) directly after
    the character before the cut. Every merge is an entry of the vocabulary, so no merge crosses the cut, and the merges
    on one side are made in the same order as in that part alone. Characters that such entries have before the mark
    (Gemma 3 has ``>▁</``) are no letters, digits or signs of symbols; texts that end with one are not cut there.
D   No dropout, truncation or padding.

Parts of a tokenizer that are not covered here count as not proven. Gene symbols are in the data, so each is tested
(:func:`fits`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cell2sen.engine.tokenization.gene_tokens import WORD

if TYPE_CHECKING:
    import tokenizers

#: Patterns for which P was proven by hand. WORD: none of its three alternatives matches a space after another
#: character, so no match crosses the cut; for the look-ahead the space after the cut and the end of the text are equal
#: (``\s|$``), so the left part is cut as it is alone; there is no look-behind, so the right part is, too. The pattern
#: of ByteLevel (use_regex): the same, and ``\s+(?!\S)`` begins at white space only; the left part has none at its end,
#: and the right part begins with a single one before another character.
_PATTERNS = frozenset({WORD})

#: Signs that symbols of genes and the texts of prompts before them end with.
_OF_SYMBOLS = "-_.:;,()/*'"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Result of :func:`prove`: the condition that the proof uses, or the reason that prevents it."""

    by: str = ""
    """``"P"`` or ``"M"``; empty where nothing is proven."""

    why: str = ""
    """Reason that prevents the proof, a clause such as ``its normaliser is …``; empty where it is proven."""

    mark: str = " "
    """Character that the normaliser writes for a space."""

    joined: frozenset[str] = frozenset()
    """Characters that the model may join with a following space: no cut after one of them."""


class _NotProvenError(Exception):
    pass


def describe(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    """Parts of a tokenizer.json that :func:`prove` needs: all but the merges, which are most of the file."""
    model: Any = tokenizer.model
    parts: Any = tokenizer
    fields = (
        "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges",
    )  # fmt: skip
    return {
        "truncation": parts.truncation,
        "padding": parts.padding,
        "normalizer": None if parts.normalizer is None else json.loads(parts.normalizer.__getstate__()),
        "pre_tokenizer": None if parts.pre_tokenizer is None else json.loads(parts.pre_tokenizer.__getstate__()),
        "added_tokens": [
            {
                "content": token.content, "lstrip": token.lstrip, "rstrip": token.rstrip,
                "single_word": token.single_word,
            }
            for token in tokenizer.get_added_tokens_decoder().values()
        ],
        "model": {"type": type(model).__name__, **{name: getattr(model, name, None) for name in fields}},
    }  # fmt: skip


def prove(description: Mapping[str, Any], vocabulary: Mapping[str, int]) -> Verdict:
    """Result of testing the conditions on a tokenizer.

    Parameters
    ----------
    description
        Result of :func:`describe`, or a whole tokenizer.json.
    vocabulary
        Entries of the model, without added tokens. Needed for condition M only.
    """
    try:
        mark = _normaliser(description.get("normalizer"))
        _added_tokens(description.get("added_tokens") or (), mark)
        _no_dropout(description)
        if mark == " " and _cuts(description.get("pre_tokenizer")):
            return Verdict(by="P", mark=mark)
        _whole_text(description, mark)
        joined = _vocabulary(description["model"], vocabulary, mark)
        _written_by_normaliser(description.get("normalizer"), joined)
    except _NotProvenError as reason:
        return Verdict(why=str(reason))
    return Verdict(by="M", mark=mark, joined=joined)


def fits(symbol: str, verdict: Verdict, tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether the proof covers this symbol.

    Before and after normalisation it has no white space and no boundary mark, and does not end with a character that
    the model may join with a space.
    """
    normaliser = tokenizer.normalizer
    written = symbol if normaliser is None else normaliser.normalize_str(symbol)
    return all(
        text
        and verdict.mark not in text
        and text[-1] not in verdict.joined
        and not any(character.isspace() for character in text)
        for text in (symbol, written)
    )


def _normaliser(normaliser: Mapping[str, Any] | None) -> str:
    """Condition N. Returns the character that the normaliser writes for a space."""
    mark, written = " ", set()
    for step in _flat(normaliser, "normalizers"):
        if step["type"] in ("NFC", "NFD"):  # a space takes part in no composition
            continue
        pattern, content = step.get("pattern", {}).get("String"), step.get("content", "")
        if step["type"] != "Replace" or pattern is None:
            raise _NotProvenError(f"its normaliser is {_short(step)}")
        if len(pattern) != 1 or not content:
            raise _NotProvenError(f"its normaliser replaces {pattern!r} by {content!r}")
        if pattern == mark:
            if len(content) != 1:
                raise _NotProvenError(f"its normaliser writes {content!r} for a space")
            mark = content
        else:
            written.add(content)
    if any(mark in content or any(map(str.isspace, content)) for content in written):
        raise _NotProvenError("its normaliser writes spaces for other characters")
    return mark


def _added_tokens(added: Iterable[Mapping[str, Any]], mark: str) -> None:
    """Condition A. A match across the cut contains a character and the space after it, or strips white space."""
    for token in added:
        content = str(token["content"])
        across = any(
            after in (" ", mark) and not before.isspace() and before != mark for before, after in pairwise(content)
        )
        if not content or across or token.get("rstrip") or token.get("single_word"):
            raise _NotProvenError(f"its added token {content!r} may match across two genes")


def _no_dropout(description: Mapping[str, Any]) -> None:
    """Condition D."""
    if description["model"].get("dropout"):
        raise _NotProvenError("it drops merges at random")
    if description.get("truncation") or description.get("padding"):
        raise _NotProvenError("it truncates or pads texts")


def _cuts(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    """Condition P: the first step cuts, and later steps process each piece alone."""
    steps = _flat(pre_tokenizer, "pretokenizers")
    if not steps or any(step["type"] != "ByteLevel" for step in steps[1:]):
        return False
    first = steps[0]
    if first["type"] == "ByteLevel":
        return bool(first.get("use_regex", True))
    return (
        first["type"] == "Split"
        and first["pattern"].get("Regex") in _PATTERNS
        and first.get("behavior") == "Isolated"
        and not first.get("invert")
    )


def _whole_text(description: Mapping[str, Any], mark: str) -> None:
    """Condition M, first half: BPE gets the text in one piece."""
    model, pre_tokenizer = description["model"], description.get("pre_tokenizer")
    if model.get("type") != "BPE":
        raise _NotProvenError(f"its pre-tokenizer is {_short(pre_tokenizer)} and its model {model.get('type')}")
    for step in _flat(pre_tokenizer, "pretokenizers"):
        # Where the normaliser replaces every space, cuts at spaces never happen.
        if step["type"] != "Split" or step["pattern"].get("String") != " " or mark == " ":
            raise _NotProvenError(f"its pre-tokenizer is {_short(step)}")
    for option in ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(option):
            raise _NotProvenError(f"its model has the option {option}")


def _vocabulary(model: Mapping[str, Any], vocabulary: Mapping[str, int], mark: str) -> frozenset[str]:
    """Condition M, second half. No character may vanish, since its neighbours would become adjacent.

    Returns the characters that stand before the mark in an entry.
    """
    if mark not in vocabulary:
        raise _NotProvenError(f"its vocabulary lacks the boundary mark {mark!r}")
    all_bytes = model.get("byte_fallback") and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    if not all_bytes and model.get("unk_token") not in vocabulary:
        raise _NotProvenError("characters that are not in its vocabulary vanish")
    joined = set()
    for entry in vocabulary:
        if mark in entry[1:]:
            for before, after in pairwise(entry):
                if after == mark and before != mark and not before.isspace():
                    if before.isalnum() or before in _OF_SYMBOLS:
                        raise _NotProvenError(f"the entry {entry!r} of its vocabulary may span two genes")
                    joined.add(before)
    return frozenset(joined)


def _written_by_normaliser(normaliser: Mapping[str, Any] | None, joined: frozenset[str]) -> None:
    """Condition M: no character of :attr:`Verdict.joined` comes from another one."""
    for step in _flat(normaliser, "normalizers"):
        if joined and (step["type"] != "Replace" or any(character in joined for character in step["content"])):
            raise _NotProvenError(f"its normaliser is {_short(step)}, and its vocabulary has entries across spaces")


def _flat(part: Mapping[str, Any] | None, members: str) -> Sequence[Mapping[str, Any]]:
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [step for member in part[members] for step in _flat(member, members)]
    return [part]


def _short(part: Mapping[str, Any] | None) -> str:
    return "none" if part is None else json.dumps(part, ensure_ascii=False)[:120]
