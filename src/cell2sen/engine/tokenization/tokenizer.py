"""Prompts → token ids and the gene of each token; prompts cut to the context.

Each gene is tokenised once and prompts are put together from ids (:mod:`cell2sen.engine.tokenization.assembly`),
wherever that is proven to be the same as tokenising their text (:mod:`cell2sen.engine.tokenization.exactness`).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.engine.tokenization.assembly import Assembler
from cell2sen.prompt import Prompt

if TYPE_CHECKING:
    import tokenizers

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokenized:
    """A prompt, or a prompt and its answer, as a model reads it."""

    ids: NDArray[np.int32]
    """Token ids, int32 (length,), with the beginning-of-text token where the model wants one."""

    find_genes: Callable[[], NDArray[np.int64]]
    """What makes `genes`, which take as long as the ids and are looked at for embeddings only."""

    answer: int
    """Where the answer begins; the length if there is none."""

    @cached_property
    def genes(self) -> NDArray[np.int64]:
        """Gene of each token, int64 (length,): its number in ``prompt.genes``, -1 for tokens of no gene.

        A gene has the tokens of its symbol and of the space before it.
        """
        return self.find_genes()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> Tokenized:
        start, stop, _ = part.indices(len(self))
        answer = min(max(self.answer - start, 0), stop - start)
        return Tokenized(ids=self.ids[part], find_genes=partial(_cut, self, part), answer=answer)


def _cut(row: Tokenized, part: slice) -> NDArray[np.int64]:
    return row.genes[part]


class Tokens:
    """The tokenizer of one model.

    Parameters
    ----------
    tokenizer
        Its padding and truncation are switched off.
    bos
        Id of the beginning-of-text token that stands once before every text; None if the model wants none.
    eos
        Ids that end a text.
    unk
        Id of the unknown token, if there is one.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        bos: int | None = None,
        eos: Collection[int] = (),
        unk: int | None = None,
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.bos = bos
        self.eos = frozenset(eos)
        self.unk = unk
        self._assembler = Assembler(tokenizer, bos)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without a beginning-of-text token."""
        return [encoding.ids for encoding in self._encodings(texts)]

    def count(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each text without a beginning-of-text token, int64 (n,)."""
        return np.array([len(encoding) for encoding in self._encodings(texts)], dtype=np.int64)

    def lengths(self, prompts: Sequence[Prompt]) -> NDArray[np.int64]:
        """Tokens of each prompt as a model reads it, int64 (n,)."""
        lengths = list(self._assembler.lengths(prompts))
        whole = (prompt.text for prompt, length in zip(prompts, lengths, strict=True) if length is None)
        encodings = self._encodings(whole)
        return np.array(
            [len(self._opened(next(encodings).ids)) if length is None else length for length in lengths], dtype=np.int64
        )

    def _encodings(self, texts: Iterable[str]) -> Iterator[tokenizers.Encoding]:
        """What the tokenizer makes of each text, few at a time: it takes a hundred bytes a token."""
        texts = iter(texts)
        while part := list(itertools.islice(texts, 256)):
            yield from self.tokenizer.encode_batch(part, add_special_tokens=False)

    def text(self, ids: Sequence[int], special: bool = False) -> str:
        """The text that token ids stand for, special tokens kept if `special`."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=not special)

    def encode(self, prompts: Sequence[Prompt], answers: Sequence[str] | None = None) -> list[Tokenized]:
        """Tokenise prompts, each together with its answer if there are answers.

        A token that reaches from the prompt into the answer counts as the answer's.
        """
        if answers is None:
            answers = [""] * len(prompts)
        assembled = list(self._assembler.rows(prompts, answers))
        rest = [row for row, parts in enumerate(assembled) if parts is None]
        whole = iter(self._encode_whole([prompts[row] for row in rest], [answers[row] for row in rest]))
        return [
            next(whole) if parts is None else Tokenized(ids=parts[0], find_genes=parts[1], answer=parts[2])
            for parts in assembled
        ]

    def _encode_whole(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Tokenized]:
        """:meth:`encode` from the texts as they are: what any faster way must equal."""
        texts = [prompt.text + answer for prompt, answer in zip(prompts, answers, strict=True)]
        rows = []
        for prompt, answer, text, encoding in zip(prompts, answers, texts, self._encodings(texts), strict=True):
            ids = encoding.ids
            starts, stops = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
            inside = np.flatnonzero(stops > len(text) - len(answer)) if answer else np.empty(0, np.int64)
            begin = int(inside[0]) if len(inside) else len(ids)
            opened = np.array(self._opened(ids), dtype=np.int32)
            added = len(opened) - len(ids)
            genes = partial(_genes, prompt, starts, stops, added)
            rows.append(Tokenized(ids=opened, find_genes=genes, answer=begin + added))
        return rows

    def known(self, symbols: Sequence[str]) -> NDArray[np.bool_]:
        """Which symbols the tokenizer can write inside a sentence and read back as they were, bool (n,)."""
        ids = self.ids([" " + symbol for symbol in symbols])
        texts = self.tokenizer.decode_batch(ids, skip_special_tokens=False)
        known = [
            _is_word(symbol) and text.strip() == symbol and self.unk not in row
            for symbol, text, row in zip(symbols, texts, ids, strict=True)
        ]
        return np.array(known, dtype=bool)

    def continuations(self, text: str, words: Sequence[str]) -> list[list[int]]:
        """Ids of ``" " + word`` as they stand behind `text`, for each word.

        Raises
        ------
        ValueError
            The tokenizer joins the end of the text and a word in one token.
        """
        [before] = self.ids([text])
        rows = self.ids([f"{text} {word}" for word in words])
        for word, row in zip(words, rows, strict=True):
            if row[: len(before)] != before or len(row) == len(before):
                raise ValueError(
                    f"cannot guide: the tokenizer joins the end of {text[-40:]!r} and the word {word!r} in one token; "
                    "end the prompt without whitespace"
                )
        return [row[len(before) :] for row in rows]

    def _opened(self, ids: list[int]) -> list[int]:
        """Ids with the beginning-of-text token, exactly once even where a template has written it out."""
        return ids if self.bos is None or ids[:1] == [self.bos] else [self.bos, *ids]


def common_length(longest: int, most: int) -> int:
    """A length for batches whose longest row has so many tokens, which many batches have in common; `most` at most.

    For each length oneDNN makes a kernel and keeps it: 200 lengths took 0.6 GB in bfloat16. So lengths are multiples
    of a 32nd of the power of two below them, which adds 1 % of padding to long texts.
    """
    step = max(8, 1 << longest.bit_length() >> 6)
    return max(longest, min(-(-longest // step) * step, most))


def pad(
    rows: Sequence[Tokenized], side: str, most: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Rows of one batch as arrays, each (rows, length): ids int64, which are real bool, genes int64 (-1 for none).

    Padding has the id 0 and may stand on either side: a model must not look at it, so it needs no token of its own.
    The length is that of :func:`common_length`, where `most` tokens are what the model can read.
    """
    length = common_length(max(map(len, rows)), most)
    ids, genes = np.zeros((len(rows), length), dtype=np.int64), np.full((len(rows), length), -1, dtype=np.int64)
    real = np.zeros((len(rows), length), dtype=bool)
    for line, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        ids[line, place], genes[line, place], real[line, place] = row.ids, row.genes, True
    return ids, real, genes


def shared(rows: Sequence[Tokenized]) -> int:
    """Tokens at the beginning that all rows have in common, those of their answers left out."""
    length = min(*map(len, rows), *(row.answer for row in rows))
    same = np.all(np.stack([row.ids[:length] for row in rows]) == rows[0].ids[:length], axis=0)
    return length if same.all() else int(np.argmin(same))


#: Where tokenizer classes that rebuild their normaliser or pre-tokeniser would go wrong: digits, hyphens, case, runs of
#: spaces, characters outside ASCII.
_PROBES = (
    "Cell sentence: MALAT1 CD4 CD44 HLA-DRA MT-CO1 RP11-34P13.7 Actb 1700001C02Rik.",
    "  two  spaces\n\nlines\tand a tab ",
    "IFN-β é e\u0301 ﬁ 细胞 🧬, 'quoted' \"text\": 3.14!",
)


def load_tokens(path: str, **where: Any) -> Tokens:
    """The tokenizer of a checkpoint, as its ``tokenizer.json`` says.

    transformers' classes take the vocabulary from that file and may rebuild the rest, so their ids are compared with
    the file's own.

    Parameters
    ----------
    where
        ``revision``, ``local_files_only`` … for transformers.

    Raises
    ------
    OSError
        There is no such file.
    ValueError
        transformers reads the file otherwise.
    """
    import tokenizers
    import transformers

    hf: Any = transformers  # typed in parts only
    known = {name: value for name, value in where.items() if name != "trust_remote_code"}
    original = tokenizers.Tokenizer.from_file(str(hf.utils.cached_file(path, "tokenizer.json", **known)))
    for kind in (hf.AutoTokenizer, hf.PreTrainedTokenizerFast):
        tokenizer = kind.from_pretrained(path, **where)
        made = getattr(tokenizer, "backend_tokenizer", None)
        if made is not None and _agree(made, original):
            eos = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
            return Tokens(made, bos=_bos(made), eos=eos, unk=tokenizer.unk_token_id)
    raise ValueError(
        f"transformers reads the tokenizer of {path!r} otherwise than its tokenizer.json says; its ids would not be "
        "those that the model was trained with"
    )


def _agree(made: tokenizers.Tokenizer, original: tokenizers.Tokenizer) -> bool:
    pairs = [[each.encode(probe, add_special_tokens=False).ids for each in (made, original)] for probe in _PROBES]
    return all(one == other for one, other in pairs)


def _bos(tokenizer: tokenizers.Tokenizer) -> int | None:
    """The token that the tokenizer itself puts before every text."""
    plain, opened = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    if opened[: len(plain)] == plain:
        return None
    if opened[1 : 1 + len(plain)] != plain:
        raise ValueError(f"the tokenizer begins a text with more than one token: {opened} for {plain}")
    return int(opened[0])


def fit(
    prompts: Sequence[Prompt],
    *,
    context: int,
    room: Sequence[int] | NDArray[np.int64],
    count: Callable[[Sequence[Prompt]], NDArray[np.int64]],
) -> tuple[list[Prompt], NDArray[np.int64]]:
    """Cut genes, and nothing else, off the end of the sentences of prompts that are too long.

    Parameters
    ----------
    context
        Tokens that prompt and answer may have together.
    room
        Tokens to be left for each answer, (n,).
    count
        Tokens of each prompt, int64 (n,).

    Returns
    -------
    The prompts with as many of their genes as fit, and their tokens, int64 (n,). One warning is logged if genes were
    cut.

    Raises
    ------
    ValueError
        A prompt does not fit even without genes.
    """
    fitted = list(prompts)
    lengths = count(fitted)
    too_long = [int(row) for row in np.flatnonzero(lengths + np.asarray(room, dtype=np.int64) > context)]
    cut = 0
    for row in too_long:
        prompt, limit = prompts[row], context - int(room[row])
        bare = int(count([prompt.shorten(0)])[0])
        if bare > limit:
            name = prompt.key or f"row {row}"
            raise ValueError(
                f"the prompt of {name!r} has {bare} tokens without any genes and needs {room[row]} "
                f"for its answer, together more than the context of {context}; use a shorter instruction or answer"
            )
        fits, over, lengths[row] = 0, prompt.n_genes, bare
        while over - fits > 1:
            middle = (fits + over) // 2
            if (tokens := int(count([prompt.shorten(middle)])[0])) <= limit:
                fits, lengths[row] = middle, tokens
            else:
                over = middle
        fitted[row] = prompt.shorten(fits)
        cut += len(prompt.genes) - len(fitted[row].genes)
    if cut:
        _log.warning(
            "%d of %d cell sentences were too long for the context of %d tokens: their last %d genes were cut",
            len(too_long),
            len(prompts),
            context,
            cut,
        )
    return fitted, lengths


def _genes(
    prompt: Prompt, starts: NDArray[np.int64], stops: NDArray[np.int64], added: int
) -> NDArray[np.int64]:  # fmt: skip
    """Gene of each token from the characters that both cover, int64 (added + tokens,); -1 for none.

    The space before a gene is part of it, as most tokenizers write it; in some a digit leaves it alone in a token.
    """
    opening = np.full(added, -1, dtype=np.int64)
    if not len(prompt.genes):
        return np.append(opening, np.full(len(starts), -1, dtype=np.int64))
    gene_starts, gene_stops = np.array(prompt.spans, dtype=np.int64).T
    text = prompt.text
    gene_starts -= [text[start - 1 : start].isspace() for start in gene_starts]
    gene = np.searchsorted(gene_stops, starts, side="right")
    nearest = np.minimum(gene, len(gene_stops) - 1)
    covers = (gene < len(gene_stops)) & (gene_starts[nearest] < stops) & (starts < stops)
    return np.append(opening, np.where(covers, gene, -1))


def _is_word(symbol: str) -> bool:
    return bool(symbol) and not any(character.isspace() for character in symbol)
