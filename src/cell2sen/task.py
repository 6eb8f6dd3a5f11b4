"""Prompt, Task: templates in, parser out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cell2sen.data.genes.organism import scientific_name
from cell2sen.sentences.gene_list import GeneList

#: Slots that every template may use without the caller naming them.
BUILT_IN_SLOTS = ("genes", "n_genes", "organism")

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One cell's prompt, which knows where its genes are.

    The text is ``before + " ".join(genes) + after``; ``{n_genes}`` in ``before`` and ``after`` stands for the number of
    genes, so that a prompt can lose genes (:meth:`shorten`) and still tell the truth about itself.
    """

    before: str
    """Text before the genes. The whole prompt, if there are no genes."""

    genes: tuple[str, ...] | GeneList = ()
    """Gene symbols in descending expression, without whitespace."""

    after: str = ""
    """Text after the genes."""

    key: str = ""
    """Names the row (usually the cell's name). Sampling is seeded by it, so that no row depends on its neighbours."""

    ask: int | None = None
    """How many genes the answer must have, where the answer is a cell sentence."""

    @property
    def prefix(self) -> str:
        """The text before the genes with ``{n_genes}`` filled in."""
        return self._count(self.before)

    @property
    def suffix(self) -> str:
        """The text after the genes with ``{n_genes}`` filled in."""
        return self._count(self.after)

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.prefix + " ".join(self.genes) + self.suffix

    @property
    def spans(self) -> list[tuple[int, int]]:
        """``(start, stop)`` of each gene in :attr:`text`, in characters, stop excluded."""
        spans, at = [], len(self.prefix)
        for gene in self.genes:
            spans.append((at, at + len(gene)))
            at += len(gene) + 1
        return spans

    def shorten(self, n_genes: int) -> Prompt:
        """The same prompt with its first `n_genes` genes only."""
        return replace(self, genes=self.genes[:n_genes])

    def _count(self, text: str) -> str:
        return text.replace("{n_genes}", str(len(self.genes) if self.genes or self.ask is None else self.ask))


@dataclass(frozen=True, kw_only=True)
class Template:
    """One wording of a task: the prompt with ``{slots}`` and the answer that belongs behind it."""

    prompt: str
    answer: str = ""

    @property
    def slots(self) -> frozenset[str]:
        """Names of the slots of prompt and answer."""
        return frozenset(_SLOT.findall(self.prompt)) | frozenset(_SLOT.findall(self.answer))


@dataclass(frozen=True, kw_only=True)
class ParsedSentence:
    """A generated cell sentence after the rules of the inverse transform."""

    genes: tuple[str, ...]
    """Known genes, each once, in order."""

    n_words: int
    """Words in the text."""

    n_unknown: int
    """Words that are no known gene."""

    n_repeated: int
    """Known genes named again."""

    @property
    def validity(self) -> float:
        """Share of the words that are a known gene named for the first time; 0 for an empty answer."""
        return len(self.genes) / self.n_words if self.n_words else 0.0


def parse_sentence(text: str, vocabulary: Collection[str]) -> ParsedSentence:
    """Read a generated cell sentence.

    The final full stop is dropped, words are split on whitespace, words not in `vocabulary` are dropped, and a repeated
    gene takes the mean of its positions. Positions are those in the text as written, so a gene that always preceded
    another one still does.
    """
    if not isinstance(vocabulary, AbstractSet | Mapping):
        vocabulary = frozenset(vocabulary)
    words = re.sub(r"\s*\.\s*$", "", text).split()
    positions: dict[str, list[int]] = {}
    for position, word in enumerate(words):
        if word in vocabulary:
            positions.setdefault(word, []).append(position)
    known = sum(map(len, positions.values()))
    genes = sorted(positions, key=lambda gene: (sum(positions[gene]) / len(positions[gene]), positions[gene][0]))
    return ParsedSentence(
        genes=tuple(genes), n_words=len(words), n_unknown=len(words) - known, n_repeated=known - len(genes)
    )


def parse_label(text: str) -> str:
    """Read a generated label: the text up to its final full stop, without surrounding whitespace."""
    return text.strip().removesuffix(".").strip()


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is asked of a model: wordings, the form of the answer, and how to read it.

    The first template is used for inference, training draws from all of them.
    """

    name: str
    templates: tuple[Template, ...]
    answer: Literal["none", "label", "sentence"]
    """``"sentence"`` answers are guided to genes by default; ``"label"`` answers can be scored against a closed set."""

    target: str | None = None
    """Slot of the answer."""

    source: str = "cell2sen"
    """Where the wording comes from: recorded, and compared with what a checkpoint was trained on."""

    defaults: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.templates:
            raise ValueError(f"task {self.name!r} has no template")

    @property
    def slots(self) -> frozenset[str]:
        """Slots to be given by the caller for a prompt (not those of the answer)."""
        return frozenset(_SLOT.findall(self.templates[0].prompt)) - set(BUILT_IN_SLOTS)

    @property
    def template_hash(self) -> str:
        """SHA-256 over all wordings, 16 hex digits; goes into the provenance."""
        payload = json.dumps([[template.prompt, template.answer] for template in self.templates])
        return hashlib.sha256(payload.encode()).hexdigest()[:16]

    def prompt(
        self,
        *,
        genes: Sequence[str] = (),
        organism: str = "Homo sapiens",
        key: str = "",
        ask: int | None = None,
        variant: int = 0,
        **slots: str,
    ) -> Prompt:
        """Fill template number `variant`.

        Raises
        ------
        KeyError
            A slot of the template was not given; names it and the slots that were.
        """
        template = self.templates[variant].prompt
        values = {**self.defaults, **slots, "organism": scientific_name(organism)}
        before, mark, after = template.partition("{genes}")
        filled = [self._fill(part, values) for part in (before, after)]
        named = genes if isinstance(genes, GeneList) else tuple(genes)
        return Prompt(before=filled[0], genes=named if mark else (), after=filled[1], key=key, ask=ask)

    def complete(self, *, variant: int = 0, **slots: str) -> str:
        """The right answer's text, with its leading space and final full stop, as it stands behind the prompt."""
        return self._fill(self.templates[variant].answer, slots)

    def parse(self, text: str, vocabulary: Collection[str] = ()) -> ParsedSentence | str:
        """Read an answer: a :class:`ParsedSentence` or a label."""
        return parse_sentence(text, vocabulary) if self.answer == "sentence" else parse_label(text)

    def reworded(self, templates: Sequence[Template], source: str) -> Task:
        """This task in other words.

        Raises
        ------
        ValueError
            A wording lacks the cell sentence or a slot of this task, has a slot that nothing fills, or more than one
            place for the cell sentence.
        """
        if not templates:
            raise ValueError(f"task {self.name!r}: no template was given")
        own, optional = self.templates[0], {"n_genes", "organism"}
        for template in templates:
            for part, text, wanted in (
                ("prompt", template.prompt, set(_SLOT.findall(own.prompt))),
                ("answer", template.answer, set(_SLOT.findall(own.answer))),
            ):
                found, where = set(_SLOT.findall(text)), f"task {self.name!r}: the {part} {text[:80]!r}"
                if unknown := sorted(found - wanted - optional):
                    raise ValueError(f"{where} has unknown slots {unknown}; available: {sorted(wanted | optional)}")
                if missing := sorted(wanted - optional - found):
                    raise ValueError(f"{where} lacks the slots {missing}")
            if template.prompt.count("{genes}") > 1:
                raise ValueError(
                    f"task {self.name!r}: the prompt {template.prompt[:80]!r} has {{genes}} more than once"
                )
        return replace(self, templates=tuple(templates), source=source)

    def _fill(self, text: str, values: Mapping[str, Any]) -> str:
        def value(match: re.Match[str]) -> str:
            name = match[1]
            if name == "n_genes":
                return match[0]
            if name not in values:
                raise KeyError(f"task {self.name!r} needs a value for {name!r}; given: {sorted(values)}")
            return str(values[name])

        return _SLOT.sub(value, text)
