"""Answers of a causal language model: free text, or genes of a list, each once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.backend import Sampling
from cell2sen.causal import Causal
from cell2sen.decode import Free, Steer, noise, write
from cell2sen.guide import GeneTrie, Guide
from cell2sen.task import Prompt
from cell2sen.tokens import Tokenized, Tokens

#: Lengths and a name for the progress bar → rows of each batch.
Batches = Callable[[NDArray[np.int64], str], Iterator[list[int]]]


class Generator:
    """Writes behind prompts that fit into the context.

    Parameters
    ----------
    eos
        Tokens that end a text.
    tokenize
        Prompts → tokens.
    batches
        Lengths and a name for the progress bar → rows of each batch.
    """

    def __init__(
        self,
        causal: Causal,
        tokens: Tokens,
        *,
        eos: Collection[int],
        tokenize: Callable[[Sequence[Prompt]], list[Tokenized]],
        batches: Batches,
    ) -> None:
        self.causal, self.tokens, self.eos = causal, tokens, frozenset(eos)
        self._tokenize, self._batches = tokenize, batches
        self._tries: dict[tuple[tuple[str, ...], str], GeneTrie] = {}

    def free(self, prompts: Sequence[Prompt], lengths: NDArray[np.int64], sampling: Sampling) -> list[str]:
        """Free text behind each prompt; `lengths` are their tokens."""
        texts = [""] * len(prompts)
        for batch in self._batches(lengths + sampling.max_new_tokens, "generate"):
            steer = Free(len(batch), self.tokens.text, eos=self.eos, limit=sampling.max_new_tokens, stop=sampling.stop)
            self._write([prompts[row] for row in batch], steer, sampling)
            for place, row in enumerate(batch):
                texts[row] = steer.text(place)
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
        texts = [""] * len(prompts)
        by_trie: dict[int, tuple[GeneTrie, list[int]]] = {}
        for row, prompt in enumerate(prompts):
            trie = self.trie(genes, prompt.text)
            by_trie.setdefault(id(trie), (trie, []))[1].append(row)
        ends = self.ends(genes[0], sampling)
        for trie, members in by_trie.values():
            for places in self._batches(lengths[members], "generate"):
                batch = [members[place] for place in places]
                guide = Guide(trie, [asks[row] for row in batch], ends, self.causal.vocabulary)
                self._write([prompts[row] for row in batch], guide, sampling)
                for place, row in enumerate(batch):
                    texts[row] = " ".join(genes[gene] for gene in guide.written[place])
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

    def _write(self, prompts: Sequence[Prompt], steer: Steer, sampling: Sampling) -> None:
        """Let the model write behind the prompts; `steer` collects what it writes."""
        ids_BL, real_BL = self.causal.pad(self._tokenize(prompts), "left")
        cache = self.causal.cache()

        def next_logits(ids: Any, real: Any, position: Any) -> Any:
            return self.causal.head(self.causal.forward(ids, real, position, cache)[:, -1])

        write(
            ids_BL,
            real_BL,
            steer,
            [noise(sampling.seed, prompt.key) for prompt in prompts],
            next_logits=next_logits,
            keep=cache.batch_select_indices,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
        )
