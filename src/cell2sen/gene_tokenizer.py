"""A tokenizer with one token per gene and byte-level pieces for all other text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

END = "<eos>"
PAD = "<pad>"

#: A word is a run without whitespace and the space before it. A closing . , : or ; stands alone, so that the last gene
#: of a sentence is the same token as any other, while dots within a symbol (RP11-206L10.9) belong to it.
WORD = r" ?[^\s]+?(?=[.,:;]?(?:\s|$))| ?[.,:;]|\s"


def build(genes: Sequence[str], texts: Iterable[str], text_tokens: int = 1500) -> Any:
    """Tokenizer for a model trained from scratch.

    Byte-level BPE is learned on `texts` (templates, labels), then every gene gets a token of its own: a word that is in
    the vocabulary as a whole is never split. Everything that is not a known gene is still written exactly, in pieces.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
        No beginning-of-text token; ``<eos>`` ends answers, ``<pad>`` pads.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    def dressed(model: Any) -> Any:
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

    learner = dressed(models.BPE())
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=text_tokens, min_frequency=1, show_progress=False, special_tokens=[PAD, END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )  # fmt: skip
    learned = json.loads(learner.to_str())["model"]
    vocabulary = dict(learned["vocab"])
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for gene in genes:
        (piece,) = byte_level.pre_tokenize_str(" " + gene)
        vocabulary.setdefault(piece[0], len(vocabulary))
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = dressed(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.add_special_tokens([PAD, END])
    make: Any = PreTrainedTokenizerFast  # typed in parts only
    return make(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False)
