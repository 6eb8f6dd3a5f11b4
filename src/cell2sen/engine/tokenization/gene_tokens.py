"""Tokenizers with one token per gene: new, or a published one extended."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_log = logging.getLogger(__name__)

END = "<eos>"
PAD = "<pad>"

#: Pattern of words: runs without whitespace, with the space before them. A final . , : or ; is a word of its own, so
#: that the last gene of a sentence has the same token as elsewhere; dots within a symbol (RP11-206L10.9) are part of
#: it.
WORD = r" ?[^\s]+?(?=[.,:;]?(?:\s|$))| ?[.,:;]|\s"

#: Pattern of words in GPT-2's byte-level tokenizers (``use_regex`` of tokenizers' ByteLevel).
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

#: SentencePiece's character for a space.
MARK = "▁"


def build(genes: Sequence[str], texts: Iterable[str], text_tokens: int = 1500, whole_genes: bool = True) -> Any:
    """Tokenizer for a model trained from scratch.

    Byte-level BPE is trained on `texts`, then every gene gets a token of its own: words that are in the vocabulary as a
    whole are never split. All other text is encoded without loss, in pieces.

    Parameters
    ----------
    genes
        Gene symbols.
    texts
        Templates and labels.
    text_tokens
        Size of the vocabulary without the genes' own tokens.
    whole_genes
        False: genes are encoded in pieces, too; BPE is trained on their symbols and the texts. Such a model can write
        genes that are not in its training data.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
        No beginning-of-text token; ``<eos>`` ends answers, ``<pad>`` pads.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    def with_words(model: Any) -> Any:
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORD), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        return tokenizer

    trained = with_words(models.BPE())
    trained.train_from_iterator(
        texts if whole_genes else [*texts, *(" " + gene for gene in genes)],
        trainers.BpeTrainer(
            vocab_size=text_tokens,
            min_frequency=1,
            show_progress=False,
            special_tokens=[PAD, END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )
    model = json.loads(trained.to_str())["model"]
    vocabulary = dict(model["vocab"])
    for gene in genes if whole_genes else ():
        vocabulary.setdefault(_bytes(" " + gene), len(vocabulary))
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = with_words(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.add_special_tokens([PAD, END])
    make: Any = PreTrainedTokenizerFast  # typed in parts only
    return make(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False)


def extend(original: Any, genes: Sequence[str]) -> tuple[Any, dict[int, list[int]]]:
    """BPE tokenizer extended by one token per gene.

    A gene is a word: between a space and the next space, the end of the text, or a final . , : or ; before these. Such
    words are split off first (by a regular expression in the form of a prefix tree, fast for tens of thousands of
    genes) and are in the vocabulary as a whole. Text without genes is encoded as before, except words in the vocabulary
    that the merges do not produce: they become one token, with one warning.

    Parameters
    ----------
    original
        A ``tokenizers.Tokenizer``: byte-level (GPT-2, GPT-NeoX, Llama 3 …) or like SentencePiece (Gemma). Not changed.
    genes
        Gene symbols. Those that are one token already keep it.

    Returns
    -------
    The tokenizer, and the ids of the pieces that each new token replaces, by the id of the token.

    Raises
    ------
    ValueError
        The tokenizer is of another kind, or a gene cannot be one token in it.
    """
    from tokenizers import Tokenizer

    spec = json.loads(original.to_str())
    model = spec["model"]
    if model["type"] != "BPE":
        raise ValueError(f"gene tokens can be added to BPE tokenizers, found {model['type']}")
    byte_level = '"ByteLevel"' in json.dumps(spec["pre_tokenizer"])
    pieces = dict(zip(genes, _ids(original, [" " + gene for gene in genes]), strict=True))
    missing = [gene for gene in dict.fromkeys(genes) if len(pieces[gene]) > 1]
    vocabulary: dict[str, int] = model["vocab"]
    for added in spec["added_tokens"]:  # keep their ids, which are not in the vocabulary
        vocabulary.setdefault(added["content"], added["id"])
    surface = {gene: _bytes(" " + gene) if byte_level else MARK + gene for gene in missing}
    new = [gene for gene in missing if surface[gene] not in vocabulary]
    first = max(vocabulary.values()) + 1
    vocabulary.update({surface[gene]: first + place for place, gene in enumerate(new)})
    if not model.get("ignore_merges"):
        _warn_of_split_words(original, model["vocab"], first)
    model["ignore_merges"] = True
    if missing:
        spec["pre_tokenizer"] = _cut_out(spec, missing, byte_level)
    extended = Tokenizer.from_str(json.dumps(spec))
    for gene, ids in zip(new, _ids(extended, [" " + gene for gene in new]), strict=True):
        if ids != [vocabulary[surface[gene]]]:
            raise ValueError(f"the tokenizer cannot write the gene {gene!r} as one token")
    return extended, {vocabulary[surface[gene]]: pieces[gene] for gene in new}


def _cut_out(spec: Mapping[str, Any], genes: Sequence[str], byte_level: bool) -> Any:
    """Pre-tokenizer in which genes are words that are not split further."""
    before = spec["pre_tokenizer"]
    if not byte_level:
        if MARK not in json.dumps(spec["normalizer"], ensure_ascii=False) or (before or {}).get("type") == "Metaspace":
            raise ValueError(
                "gene tokens can be added to byte-level tokenizers and to those that write spaces as ▁ in their "
                f"normaliser; this one has normaliser {spec['normalizer']} and pre-tokenizer {before}"
            )
        # The model gets the whole text between genes in one piece, as before.
        return _split(pattern(genes, MARK, rf"{MARK}|\s|$"))
    parts = before["pretokenizers"] if before["type"] == "Sequence" else [before]
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"] and before.get("use_regex", True) and not parts[0]["add_prefix_space"]:
        rule = GPT2
    elif kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True) and "Regex" in parts[0]["pattern"]:
        rule = parts[0]["pattern"]["Regex"]
    else:
        raise ValueError(
            f"gene tokens cannot be added to a tokenizer that cuts words by {kinds} with the options {before}"
        )
    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    words = pattern(genes, " ", r"\s|$")
    return {"type": "Sequence", "pretokenizers": [_split(f"{words}|{rule}"), whole]}


def _split(rule: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False}


def pattern(genes: Iterable[str], space: str, end: str) -> str:
    """Regular expression for any of the genes as a word, in the form of a prefix tree, so that matching is fast.

    Parameters
    ----------
    space
        Character before a gene.
    end
        Pattern of what may follow the gene, or the . , : or ; after it.
    """
    tree: dict[str, Any] = {}
    for gene in genes:
        node = tree
        for character in gene:
            node = node.setdefault(character, {})
        node[""] = {}
    return rf"{re.escape(space)}{_branch(tree)}(?=[.,:;]?(?:{end}))"


def _branch(node: Mapping[str, Any]) -> str:
    ways = [re.escape(character) + _branch(node[character]) for character in sorted(node) if character]
    if not ways:
        return ""
    ends_here = "" in node
    inside = ways[0] if len(ways) == 1 and not ends_here else f"(?:{'|'.join(ways)})"
    return inside + "?" * ends_here


def _warn_of_split_words(original: Any, vocabulary: Mapping[str, int], first: int) -> None:
    """Warns about words of the old vocabulary that its merges did not produce and that now become one token."""
    changed = []
    special = {added.content for added in original.get_added_tokens_decoder().values()}
    for word, number in vocabulary.items():
        ordinary = number < first and word not in special and not re.fullmatch("<0x..>", word)
        if ordinary and len(original.model.tokenize(word)) != 1:
            changed.append(word)
    if changed:
        _log.warning("%d words that were split before become one token, such as %s", len(changed), changed[:5])


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def _bytes(text: str) -> str:
    """Text in the characters of byte-level vocabularies."""
    from tokenizers import pre_tokenizers

    (piece,) = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return str(piece[0])
