"""Answers of a causal language model: free text, or genes of a list, each once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.backend import Sampling
from cell2sen.engine.decoding.drafts import GeneDrafts, Memory
from cell2sen.engine.decoding.gene_trie import GeneTrie
from cell2sen.engine.decoding.guide import Guide
from cell2sen.engine.decoding.loop import Free, Steer, Work, write
from cell2sen.engine.decoding.sampling import row_key
from cell2sen.engine.network.causal_lm import Causal, Head
from cell2sen.engine.tokenization.tokenizer import Tokenized, Tokens
from cell2sen.prompt import Prompt

#: Calls its first argument with the rows of each batch, given the lengths of all rows and a name for the progress bar.
Run = Callable[[Callable[[list[int]], None], NDArray[np.int64], str], None]


class Generator:
    """Writes behind prompts that fit into the context.

    Parameters
    ----------
    eos
        Tokens that end a text.
    tokenize
        Prompts → tokens.
    run
        Does all rows batch by batch, see :data:`Run`; may do a part of a batch again.

    Attributes
    ----------
    drafts
        Guess several genes ahead. Changes the speed, not the answers.
    work
        What the last call took.
    """

    def __init__(
        self,
        causal: Causal,
        tokens: Tokens,
        *,
        eos: Collection[int],
        tokenize: Callable[[Sequence[Prompt]], list[Tokenized]],
        run: Run,
    ) -> None:
        self.causal, self.tokens, self.eos = causal, tokens, frozenset(eos)
        self._tokenize, self._run = tokenize, run
        self.drafts = True
        self.work = Work()
        self._tries: dict[tuple[tuple[str, ...], str], GeneTrie] = {}

    def free(self, prompts: Sequence[Prompt], lengths: NDArray[np.int64], sampling: Sampling) -> list[str]:
        """Free text behind each prompt; `lengths` are their tokens."""
        self.work = Work()
        texts = [""] * len(prompts)
        lengths = lengths + sampling.max_new_tokens

        def answer(batch: list[int]) -> None:
            steer = Free(len(batch), self.tokens.text, eos=self.eos, limit=sampling.max_new_tokens, stop=sampling.stop)
            self._write([prompts[row] for row in batch], steer, Head(self.causal), sampling, int(lengths[batch].max()))
            for place, row in enumerate(batch):
                texts[row] = steer.text(place)

        self._run(answer, lengths, "generate")
        return texts

    def guided(
        self,
        prompts: Sequence[Prompt],
        lengths: NDArray[np.int64],
        sampling: Sampling,
        genes: tuple[str, ...],
        asks: Sequence[int],
    ) -> list[str]:
        """As many genes as asked behind each prompt, each once; `lengths` are the tokens of prompts and answers."""
        self.work = Work()
        texts = [""] * len(prompts)
        by_trie: dict[int, tuple[GeneTrie, list[int]]] = {}
        for row, prompt in enumerate(prompts):
            trie = self.trie(genes, prompt.text)
            by_trie.setdefault(id(trie), (trie, []))[1].append(row)
        ends = self.ends(genes[0], sampling)
        for trie, members in by_trie.values():
            columns = Guide(trie, [], ends, self.causal.vocabulary).columns
            head, memory = Head(self.causal, columns), Memory(trie, columns)

            def answer(
                places: list[int], trie: GeneTrie = trie, members: list[int] = members, memory: Memory = memory,
                head: Head = head,
            ) -> None:  # fmt: skip
                batch = [members[place] for place in places]
                keys = [row_key(sampling.seed, prompts[row].key) for row in batch]
                drafts = GeneDrafts(memory, keys, sampling.temperature) if self.drafts else None
                guide = Guide(trie, [asks[row] for row in batch], ends, self.causal.vocabulary, drafts)
                self._write([prompts[row] for row in batch], guide, head, sampling, int(lengths[batch].max()))
                for place, row in enumerate(batch):
                    texts[row] = " ".join(genes[gene] for gene in guide.written[place])

            self._run(answer, lengths[members], "generate")
        self.work.genes = sum(asks)
        return texts

    def trie(self, genes: tuple[str, ...], text: str) -> GeneTrie:
        """The genes as they stand behind one another, and the first one as it stands behind the prompt's last word."""
        if text != text.rstrip():
            raise ValueError(f"a prompt for a guided answer must not end in whitespace; found {text[-20:]!r}")
        last = text.split()[-1] if text else ""
        if (genes, last) not in self._tries:
            later, first = (self.tokens.continuations(before, genes) for before in (genes[0], last))
            same = (trie for (listed, _), trie in self._tries.items() if listed == genes and trie.first_root == 0)
            trie = next(same, None) if first == later else None
            self._tries[genes, last] = trie or GeneTrie(genes, later, first)
            if len(self._tries) > 16:
                del self._tries[next(iter(self._tries))]
        return self._tries[genes, last]

    def ends(self, gene: str, sampling: Sampling) -> list[int]:
        """Tokens that show that the last gene is complete: end of text, the full stop of a sentence, stop strings."""
        ends = {*self.eos}
        for string in (".", *sampling.stop):
            [bare], [joined] = self.tokens.ids([gene]), self.tokens.ids([gene + string])
            if joined[: len(bare)] == bare and len(joined) > len(bare):
                ends.add(joined[len(bare)])
        return sorted(ends)

    def _write(self, prompts: Sequence[Prompt], steer: Steer, head: Head, sampling: Sampling, room: int) -> None:
        """Let the model write behind the prompts; `steer` collects what it writes."""
        rows = [row.ids for row in self._tokenize(prompts)]
        slots = self.causal.begin([row[:-1] for row in rows], room)
        write(
            rows,
            steer,
            [row_key(sampling.seed, prompt.key) for prompt in prompts],
            read=lambda ids, places: self.causal.read(ids, places, slots),
            logits=head.logits,
            keep=lambda kept: slots.take(torch.from_numpy(kept).to(self.causal.device)),
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            work=self.work,
        )
