"""Free and guided answers of a causal LM: text, or genes of a list, each once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.backend import Sampling
from cell2sen.engine.decoding import loop
from cell2sen.engine.decoding.constraint import Constraint
from cell2sen.engine.decoding.drafts import DraftMemory, GeneDrafts
from cell2sen.engine.decoding.gene_trie import GeneTrie
from cell2sen.engine.decoding.guide import Guide
from cell2sen.engine.decoding.sampling import row_key
from cell2sen.engine.decoding.tries import GeneTries
from cell2sen.engine.network.batching import RunBatches
from cell2sen.engine.network.causal_lm import CausalLM, Head
from cell2sen.engine.tokenization.tokenizer import Tokenized, Tokens
from cell2sen.prompt import Prompt


class Generator:
    """Free and guided answers to prompts that fit into the context.

    Parameters
    ----------
    eos
        Tokens that end a text.
    tokenize
        Token ids of prompts.
    run
        Processes all rows in batches; may repeat a part of a batch.

    Attributes
    ----------
    drafts
        Whether tokens are drafted. Changes the speed, not the answers.
    work
        Counts of passes and tokens of the last call.
    """

    def __init__(
        self,
        causal: CausalLM,
        tokens: Tokens,
        *,
        eos: Collection[int],
        tokenize: Callable[[Sequence[Prompt]], list[Tokenized]],
        run: RunBatches,
    ) -> None:
        self.causal, self.tokens, self.eos = causal, tokens, frozenset(eos)
        self._tokenize, self._run = tokenize, run
        self.drafts = True
        self.work = loop.Work()
        self.tries = GeneTries(tokens, eos)

    def free(self, prompts: Sequence[Prompt], lengths: NDArray[np.int64], sampling: Sampling) -> list[str]:
        """Free text after each prompt; `lengths` are the tokens of each prompt, int64 (n,)."""
        self.work = loop.Work()
        texts = [""] * len(prompts)
        lengths = lengths + sampling.max_new_tokens

        def generate_batch(batch: list[int]) -> None:
            answers = loop.FreeText(
                len(batch), self.tokens.text, eos=self.eos, limit=sampling.max_new_tokens, stop=sampling.stop
            )
            capacity = int(lengths[batch].max())
            self._generate([prompts[row] for row in batch], answers, Head(self.causal), sampling, capacity)
            for place, row in enumerate(batch):
                texts[row] = answers.text(place)

        self._run(generate_batch, lengths, "writing sentences")
        return texts

    def guided(
        self,
        prompts: Sequence[Prompt],
        lengths: NDArray[np.int64],
        sampling: Sampling,
        genes: tuple[str, ...],
        n_genes: Sequence[int],
    ) -> list[str]:
        """Genes after each prompt, each once, joined by spaces.

        Parameters
        ----------
        lengths
            Tokens of each prompt and its answer, int64 (n,).
        n_genes
            Genes of each answer.
        """
        self.work = loop.Work()
        texts = [""] * len(prompts)
        by_trie: dict[int, tuple[GeneTrie, list[int]]] = {}
        for row, prompt in enumerate(prompts):
            trie = self.tries.trie(genes, prompt.text)
            by_trie.setdefault(id(trie), (trie, []))[1].append(row)
        ends = self.tries.ends(genes[0], sampling.stop)
        for trie, members in by_trie.values():
            columns = Guide(trie, [], ends, self.causal.vocabulary).columns
            head, memory = Head(self.causal, columns), DraftMemory(trie, columns)

            def generate_batch(
                places: list[int],
                trie: GeneTrie = trie,
                members: list[int] = members,
                memory: DraftMemory = memory,
                head: Head = head,
            ) -> None:
                batch = [members[place] for place in places]
                keys = [row_key(sampling.seed, prompts[row].key) for row in batch]
                drafts = GeneDrafts(memory, keys, sampling.temperature) if self.drafts else None
                guide = Guide(trie, [n_genes[row] for row in batch], ends, self.causal.vocabulary, drafts)
                capacity = int(lengths[batch].max())
                self._generate([prompts[row] for row in batch], guide, head, sampling, capacity)
                for place, row in enumerate(batch):
                    texts[row] = " ".join(genes[gene] for gene in guide.written[place])

            self._run(generate_batch, lengths[members], "writing sentences")
        self.work.genes = sum(n_genes)
        return texts

    def _generate(
        self, prompts: Sequence[Prompt], constraint: Constraint, head: Head, sampling: Sampling, capacity: int
    ) -> None:
        """Generates one batch; `constraint` collects the answers."""
        rows = [row.ids for row in self._tokenize(prompts)]
        cache = self.causal.prefill([row[:-1] for row in rows], capacity)
        loop.generate(
            rows,
            constraint,
            [row_key(sampling.seed, prompt.key) for prompt in prompts],
            hidden_states=lambda ids, positions: self.causal.hidden_states(ids, positions, cache),
            logits=head.logits,
            select_rows=lambda kept: cache.select_rows(torch.from_numpy(kept).to(self.causal.device)),
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            work=self.work,
        )
