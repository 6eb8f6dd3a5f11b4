"""Tokenizer: prompts to token ids and genes; gene lists cut to the context.

Each gene is tokenized once and prompts are assembled from its ids (:mod:`cell2sen.engine.tokenization.assembly`)
wherever that is proven to equal tokenizing the whole text (:mod:`cell2sen.engine.tokenization.exactness`).
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

from cell2sen.engine.tokenization.assembly import Assembler, Endings
from cell2sen.model import Model
from cell2sen.prompt import Prompt

if TYPE_CHECKING:
    import tokenizers

_log = logging.getLogger(__name__)

#: Message whose place in a chat template is looked for.
_MESSAGE = "MESSAGE-OF-THE-USER"


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokenized:
    """Token ids of a prompt, or of a prompt and its answer."""

    ids: NDArray[np.int32]
    """Token ids, int32 (length,), with the beginning-of-text token if the model has one."""

    find_genes: Callable[[], NDArray[np.int64]]
    """Function that computes `genes`, which takes as long as the ids and is needed for embeddings only."""

    answer: int
    """Index of the answer's first token; the length if there is no answer."""

    @cached_property
    def genes(self) -> NDArray[np.int64]:
        """Gene of each token, int64 (length,): index into ``prompt.genes``, -1 for tokens of no gene.

        Tokens of a gene are those of its symbol and of the space before it.
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


#: For each answer of a prompt: token ids after those that all answers share, and index of the answer's first one.
Rests = tuple[tuple[tuple[int, ...], int], ...]


class Tokens:
    """Tokenizer of one model.

    Parameters
    ----------
    tokenizer
        Its padding and truncation are switched off.
    bos
        Id of the beginning-of-text token, once before each text; None if the model has none.
    eos
        Ids that end a text.
    unk
        Id of the unknown token, if there is one.
    chat
        Text before and after a user's message in the chat template of an instruction checkpoint, up to where the
        answer begins; None without one.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        bos: int | None = None,
        eos: Collection[int] = (),
        unk: int | None = None,
        chat: tuple[str, str] | None = None,
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.bos = bos
        self.eos = frozenset(eos)
        self.unk = unk
        self.chat = chat
        self._assembler = Assembler(tokenizer, bos)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without a beginning-of-text token."""
        return [encoding.ids for encoding in self._encodings(texts)]

    def count(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Number of tokens of each text without a beginning-of-text token, int64 (n,)."""
        return np.array([len(encoding) for encoding in self._encodings(texts)], dtype=np.int64)

    def lengths(self, prompts: Sequence[Prompt]) -> NDArray[np.int64]:
        """Number of tokens of each prompt, the beginning-of-text token included, int64 (n,)."""
        lengths = list(self._assembler.lengths(prompts))
        whole = (prompt.text for prompt, length in zip(prompts, lengths, strict=True) if length is None)
        encodings = self._encodings(whole)
        return np.array(
            [len(self._opened(next(encodings).ids)) if length is None else length for length in lengths], dtype=np.int64
        )

    def _encodings(self, texts: Iterable[str]) -> Iterator[tokenizers.Encoding]:
        """Encoding of each text, 256 at a time, since an encoding takes 100 bytes per token."""
        texts = iter(texts)
        while part := list(itertools.islice(texts, 256)):
            yield from self.tokenizer.encode_batch(part, add_special_tokens=False)

    def text(self, ids: Sequence[int], special: bool = False) -> str:
        """Decoded text, with special tokens if `special`."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=not special)

    def encode(self, prompts: Sequence[Prompt], answers: Sequence[str] | None = None) -> list[Tokenized]:
        """Token ids of prompts, each together with its answer if there are answers.

        A token that spans the end of the prompt and the beginning of the answer is part of the answer.
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

    def continued(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[tuple[NDArray[np.int32], Rests]]:
        """Token ids of prompts with a closed set of answers: the shared beginning, and the rest of each answer.

        Equal to :meth:`encode` of a prompt with each of the answers, cut after the tokens that these share. A prompt is
        tokenized once, not once per answer, where its end can be cut off.

        Returns
        -------
        For each prompt the shared ids, int32 (length,), without tokens of an answer; and for each answer the following
        ids and the index of the answer's first one among them.
        """
        result: list[tuple[NDArray[np.int32], Rests]] = []
        known: tuple[Endings, int, Rests] | None = None
        for prompt, row in zip(prompts, self._assembler.rows(prompts, [answers[0]] * len(prompts)), strict=True):
            endings = None if row is None else self._assembler.endings(prompt, answers)
            if row is None or endings is None:
                rows = self.encode([prompt] * len(answers), answers)
                cut, rests = _after_shared([(each.ids, each.answer) for each in rows])
                result.append((rows[0].ids[:cut], rests))
                continue
            if known is None or endings is not known[0]:  # mostly all prompts of a task have the same
                known = endings, *_after_shared(endings)
            _, cut, rests = known
            result.append((row[0][: len(row[0]) - len(endings[0][0]) + cut], rests))
        return result

    def _encode_whole(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Tokenized]:
        """:meth:`encode` by tokenizing whole texts: the slow path that the fast one must equal."""
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
        """Which symbols are encoded and decoded without loss within a sentence, bool (n,)."""
        ids = self.ids([" " + symbol for symbol in symbols])
        texts = self.tokenizer.decode_batch(ids, skip_special_tokens=False)
        known = [
            _is_word(symbol) and text.strip() == symbol and self.unk not in row
            for symbol, text, row in zip(symbols, texts, ids, strict=True)
        ]
        return np.array(known, dtype=bool)

    def continuations(self, text: str, words: Sequence[str]) -> list[list[int]]:
        """Token ids of ``" " + word`` after `text`, for each word; of the word alone where `text` ends in a line break.

        Raises
        ------
        ValueError
            One token spans the end of the text and a word.
        """
        [before] = self.ids([text])
        space = "" if text.endswith("\n") else " "
        rows = self.ids([f"{text}{space}{word}" for word in words])
        for word, row in zip(words, rows, strict=True):
            if row[: len(before)] != before or len(row) == len(before):
                raise ValueError(
                    f"the tokenizer joins the end of {text[-40:]!r} and the word {word!r} in one token, so the answer "
                    "cannot be guided; end the prompt without whitespace"
                )
        return [row[len(before) :] for row in rows]

    def _opened(self, ids: list[int]) -> list[int]:
        """Ids with exactly one beginning-of-text token, even if the template contains its text."""
        return ids if self.bos is None or ids[:1] == [self.bos] else [self.bos, *ids]


def common_length(longest: int, max_length: int) -> int:
    """Padded length of a batch: the longest row, rounded up so that batches share few lengths, at most `max_length`.

    oneDNN keeps a kernel for each length: 200 lengths took 0.6 GB in bfloat16. So lengths are multiples of a 32nd of
    the power of two below them, which adds 1 % of padding to long texts.
    """
    step = max(8, 1 << longest.bit_length() >> 6)
    return max(longest, min(-(-longest // step) * step, max_length))


def pad(
    rows: Sequence[Tokenized], side: str, max_length: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Padded batch: ids int64, mask of real tokens bool, gene of each token int64 (-1 for none), each (rows, length).

    Padding has id 0 and is masked out. The length is :func:`common_length`, at most `max_length`, the model's context.
    """
    length = common_length(max(map(len, rows)), max_length)
    ids, genes = np.zeros((len(rows), length), dtype=np.int64), np.full((len(rows), length), -1, dtype=np.int64)
    real = np.zeros((len(rows), length), dtype=bool)
    for line, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        ids[line, place], genes[line, place], real[line, place] = row.ids, row.genes, True
    return ids, real, genes


def _after_shared(rows: Sequence[tuple[NDArray[np.int32], int]]) -> tuple[int, Rests]:
    """Number of first ids that all rows share, without those of answers, and what follows in each.

    Parameters
    ----------
    rows
        Ids of each row, and index of its answer's first one.
    """
    length = min(min(len(ids), answer) for ids, answer in rows)
    same = np.all(np.stack([ids[:length] for ids, _ in rows]) == rows[0][0][:length], axis=0)
    cut = length if same.all() else int(np.argmin(same))
    return cut, tuple((tuple(ids[cut:].tolist()), answer - cut) for ids, answer in rows)


#: Texts whose ids differ if a tokenizer class rebuilds its normaliser or pre-tokenizer differently: digits, hyphens,
#: case, runs of spaces, characters outside ASCII.
_PROBES = (
    "Cell sentence: MALAT1 CD4 CD44 HLA-DRA MT-CO1 RP11-34P13.7 Actb 1700001C02Rik.",
    "  two  spaces\n\nlines\tand a tab ",
    "IFN-β é e\u0301 ﬁ 细胞 🧬, 'quoted' \"text\": 3.14!",
)


def known_genes(model: Model, tokens: Tokens | None, symbols: Sequence[str]) -> NDArray[np.bool_]:
    """Which symbols a model can write, bool (n,): those of its list of genes that its tokenizer encodes without loss.

    Parameters
    ----------
    tokens
        Tokenizer of the model; ``None`` if it is not on this machine: only the list decides.
    """
    known = np.ones(len(symbols), dtype=bool) if tokens is None else tokens.known(symbols)
    if model.genes is not None:
        listed = frozenset(model.genes)
        known &= np.array([symbol in listed for symbol in symbols], dtype=bool)
    return known


def _chat(tokenizer: Any) -> tuple[str, str] | None:
    """Text before and after a user's message in the chat template of a tokenizer; None without one that keeps it."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    conversation = [{"role": "user", "content": _MESSAGE}]
    try:
        text = str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program, and may need messages of another form
        _log.warning("the chat template of the checkpoint cannot be used and is not applied: %s", error)
        return None
    before, message, after = text.partition(_MESSAGE)
    return (before, after) if message and _MESSAGE not in after else None


def load_tokens(path: str, **options: Any) -> Tokens:
    """Tokenizer of a checkpoint, exactly as in its ``tokenizer.json``.

    Classes of transformers read the vocabulary from that file and may rebuild the rest, so their ids are compared with
    those of the file.

    Parameters
    ----------
    options
        ``revision``, ``local_files_only`` … of transformers' ``from_pretrained``.

    Raises
    ------
    OSError
        There is no such file.
    ValueError
        All tokenizers that transformers builds have other ids, or the tokenizer begins texts with several tokens.
    """
    import tokenizers
    import transformers

    hf: Any = transformers  # typed in parts only
    file_options = {name: value for name, value in options.items() if name != "trust_remote_code"}
    original = tokenizers.Tokenizer.from_file(str(hf.utils.cached_file(path, "tokenizer.json", **file_options)))
    for kind in (hf.AutoTokenizer, hf.PreTrainedTokenizerFast):
        tokenizer = kind.from_pretrained(path, **options)
        rebuilt = getattr(tokenizer, "backend_tokenizer", None)
        if rebuilt is not None and _agree(rebuilt, original):
            eos = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
            return Tokens(rebuilt, bos=_bos(rebuilt), eos=eos, unk=tokenizer.unk_token_id, chat=_chat(tokenizer))
    raise ValueError(
        f"transformers builds a tokenizer for {path!r} that differs from its tokenizer.json: its ids would not be "
        "those that the model was trained with"
    )


def _agree(rebuilt: tokenizers.Tokenizer, original: tokenizers.Tokenizer) -> bool:
    """Whether two tokenizers have the same ids for :data:`_PROBES`."""
    ids, expected = (
        [tokenizer.encode(probe, add_special_tokens=False).ids for probe in _PROBES]
        for tokenizer in (rebuilt, original)
    )
    return ids == expected


def _bos(tokenizer: tokenizers.Tokenizer) -> int | None:
    """Id of the beginning-of-text token that the tokenizer adds, None if it adds none."""
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
    reserved_tokens: Sequence[int] | NDArray[np.int64],
    count: Callable[[Sequence[Prompt]], NDArray[np.int64]],
) -> tuple[list[Prompt], NDArray[np.int64]]:
    """Prompts that fit into the context: the gene lists of too long ones are cut, all lists of a prompt to one length.

    Text and answers are never cut. Logs one warning if genes are cut.

    Parameters
    ----------
    context
        Tokens that prompt and answer may have together.
    reserved_tokens
        Tokens reserved for each answer, (n,).
    count
        Function that returns the tokens of each prompt, int64 (n,).

    Returns
    -------
    The prompts with as many of their genes as fit, and their numbers of tokens, int64 (n,).

    Raises
    ------
    ValueError
        A prompt does not fit even without genes.
    """
    fitted = list(prompts)
    lengths = count(fitted)
    too_long = [int(row) for row in np.flatnonzero(lengths + np.asarray(reserved_tokens, dtype=np.int64) > context)]
    cut = 0
    for row in too_long:
        prompt, limit = prompts[row], context - int(reserved_tokens[row])
        bare = int(count([prompt.shorten(0)])[0])
        if bare > limit:
            name = prompt.key or f"row {row}"
            raise ValueError(
                f"the prompt of {name!r} has {bare} tokens without any genes and needs {reserved_tokens[row]} "
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


def _genes(prompt: Prompt, starts: NDArray[np.int64], stops: NDArray[np.int64], added: int) -> NDArray[np.int64]:
    """Gene of each token by overlap in characters, int64 (added + tokens,), -1 for none.

    The space before a gene is part of it: most tokenizers have it in the token of the first letters, some have a token
    of its own before a digit.
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
    return symbol.split() == [symbol]
