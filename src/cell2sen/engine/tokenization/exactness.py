"""Whether a tokenizer may be given a sentence word by word: a proof from its own description.

The claim: where a text is cut in front of a single space that has a character other than white space on either side,
the ids of the text are the ids of its parts, one behind the other. Four conditions are enough:

N   The normaliser works on characters, so that no change reaches across the cut.
A   No added token can match across the cut.
P   The pre-tokeniser always cuts there, whatever stands around it, and looks at nothing beyond. Then the model never
    sees both sides.
M   Or: the model is BPE over the whole text and no entry of its vocabulary has the boundary mark (``▁``) directly
    behind another character. Every merge makes an entry of the vocabulary, so no merge reaches across the cut, and
    those on one side are carried out in the order in which they are carried out there alone.
D   Nothing is left to chance, cut or filled up.

What is not understood is not proven. Genes are looked at one by one (:func:`fits`), since they come with the data.
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

#: Patterns of which P was shown by hand. WORD: none of its three alternatives goes on into a space once it has taken
#: another character, so no match reaches across; the look-ahead takes the space behind the cut and the end of the text
#: for the same (``\s|$``), so the left part is cut as it is cut alone; there is no look-behind, so the right one is,
#: too. The pattern of ByteLevel (use_regex): the same, and its look-ahead ``\s+(?!\S)`` begins at white space only,
#: of which the left part has none at its end, and the right part a single one that another character follows.
_PATTERNS = frozenset({WORD})


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found."""

    by: str = ""
    """``"P"`` or ``"M"``; empty where nothing is proven."""

    why: str = ""
    """What stands in the way of a proof."""

    mark: str = " "
    """What the normaliser makes of a space."""


class _NotProvenError(Exception):
    pass


def describe(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    """The parts of a tokenizer.json that :func:`prove` looks at, as the tokenizer itself writes them.

    All but the merges, which are most of the file and are not looked at.
    """
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
    """Check the conditions.

    Parameters
    ----------
    description
        What :func:`describe` says, or a whole tokenizer.json.
    vocabulary
        Entries of the model, without added tokens. Looked at where P does not hold.
    """
    try:
        mark = _normaliser(description.get("normalizer"))
        _added_tokens(description.get("added_tokens") or (), mark)
        _no_chance(description)
        if mark == " " and _cuts(description.get("pre_tokenizer")):
            return Verdict(by="P", mark=mark)
        _whole_text(description, mark)
        _vocabulary(description["model"], vocabulary, mark)
    except _NotProvenError as reason:
        return Verdict(why=str(reason))
    return Verdict(by="M", mark=mark)


def fits(symbol: str, verdict: Verdict, tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether the proof covers this symbol: before and after normalisation no white space and no boundary mark in it.

    Without them, the characters on both sides of a cut are what the conditions take them for.
    """
    normaliser = tokenizer.normalizer
    written = symbol if normaliser is None else normaliser.normalize_str(symbol)
    return all(
        text and verdict.mark not in text and not any(character.isspace() for character in text)
        for text in (symbol, written)
    )


def _normaliser(normaliser: Mapping[str, Any] | None) -> str:
    """N. What becomes of a space."""
    mark, written = " ", set()
    for step in _flat(normaliser, "normalizers"):
        if step["type"] in ("NFC", "NFD"):  # a space takes part in no composition
            continue
        pattern, content = step.get("pattern", {}).get("String"), step.get("content", "")
        if step["type"] != "Replace" or pattern is None:
            raise _NotProvenError(f"its normaliser {_short(step)}")
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
    """A. A match across the cut holds a character and the space behind it, or has to look at or eat what is there."""
    for token in added:
        content = str(token["content"])
        across = any(
            after in (" ", mark) and not before.isspace() and before != mark for before, after in pairwise(content)
        )
        if not content or across or token.get("rstrip") or token.get("single_word"):
            raise _NotProvenError(f"its added token {content!r}")


def _no_chance(description: Mapping[str, Any]) -> None:
    """D."""
    if description["model"].get("dropout"):
        raise _NotProvenError("it drops merges at random")
    if description.get("truncation") or description.get("padding"):
        raise _NotProvenError("it cuts or fills up texts")


def _cuts(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    """P. The first step cuts; what comes behind it must treat each piece by itself."""
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
    """That BPE sees the text in one piece."""
    model, pre_tokenizer = description["model"], description.get("pre_tokenizer")
    if model.get("type") != "BPE":
        raise _NotProvenError(f"its pre-tokeniser {_short(pre_tokenizer)} in front of {model.get('type')}")
    for step in _flat(pre_tokenizer, "pretokenizers"):
        # Where the normaliser has replaced every space, a cut at spaces never happens.
        if step["type"] != "Split" or step["pattern"].get("String") != " " or mark == " ":
            raise _NotProvenError(f"its pre-tokeniser {_short(step)}")
    for option in ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(option):
            raise _NotProvenError(f"its {option}")


def _vocabulary(model: Mapping[str, Any], vocabulary: Mapping[str, int], mark: str) -> None:
    """M, and that no character vanishes, or what stood around it would meet."""
    if mark not in vocabulary:
        raise _NotProvenError(f"its vocabulary lacks the boundary mark {mark!r}")
    all_bytes = model.get("byte_fallback") and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    if not all_bytes and model.get("unk_token") not in vocabulary:
        raise _NotProvenError("characters that it does not know vanish")
    for entry in vocabulary:
        if mark in entry[1:]:
            for before, after in pairwise(entry):
                if after == mark and before != mark and not before.isspace():
                    raise _NotProvenError(f"the entry {entry!r} of its vocabulary")


def _flat(part: Mapping[str, Any] | None, members: str) -> Sequence[Mapping[str, Any]]:
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [step for member in part[members] for step in _flat(member, members)]
    return [part]


def _short(part: Mapping[str, Any] | None) -> str:
    return "nothing" if part is None else json.dumps(part, ensure_ascii=False)[:120]
