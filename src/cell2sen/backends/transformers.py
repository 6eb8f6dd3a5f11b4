"""Causal language models through Hugging Face transformers, on CPU or GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.backend import (
    Backend,
    Embeddings,
    Pooling,
    RankValues,
    Sampling,
    Unsupported,
    answer_lengths,
    check_embed,
)
from cell2sen.data.progress import Report
from cell2sen.engine import edited, scoring
from cell2sen.engine.decoding.sampling import row_key
from cell2sen.engine.embedding import Embedder
from cell2sen.engine.expectation import expected_values
from cell2sen.engine.generation import Generator
from cell2sen.engine.network import attention, batching, cpu
from cell2sen.engine.network.causal_lm import CausalLM
from cell2sen.engine.network.loading import load_checkpoint
from cell2sen.engine.tokenization.reserved import for_answers, for_genes
from cell2sen.engine.tokenization.tokenizer import Tokenized, Tokens, common_length, fit, known_genes
from cell2sen.model import Model
from cell2sen.prompt import Prompt


def load(
    model: Model,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    progress: bool | Report = True,
    offline: bool = True,
    padding_side: Literal["left", "right"] = "right",
) -> TransformersBackend:
    """Backend with a checkpoint from a local directory or the hub's cache.

    Sets malloc to keep freed memory (:func:`cell2sen.engine.network.cpu.keep_freed_memory`); the environment variable
    ``CELL2SEN_KEEP_MEMORY=0`` prevents it.

    Parameters
    ----------
    device
        A device of PyTorch; ``"auto"`` is the GPU if there is one, else the CPU.
    batch_size
        Prompts in a batch; None: as many as fit into memory, up to a number of tokens above which it is no faster.
    progress
        Show a progress bar on stderr for long work.
    offline
        Use the files on this machine; False downloads missing ones from the hub.
    padding_side
        Side of the padding in batches of :meth:`~TransformersBackend.embed`. Does not change the results.

    Raises
    ------
    FileNotFoundError
        The checkpoint is not on this machine; the message has the command that downloads it.
    ValueError
        Its tokenizer or architecture cannot be read exactly.
    ImportError
        `model` is quantised and bitsandbytes is not installed.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = cpu.resolve_dtype(model, device)
    network, tokens = load_checkpoint(model, device, offline=offline, progress=progress)
    return TransformersBackend(
        model, network, tokens, batch_size=batch_size, progress=progress, padding_side=padding_side
    )


def check_device(device: str) -> None:
    """Raise a ValueError unless PyTorch has this device here."""
    try:
        kind, number = torch.device(device).type, torch.device(device).index or 0
    except RuntimeError as error:
        raise ValueError(f"no device {device!r}; available: auto, cpu, cuda, cuda:1, …") from error
    if kind == "cuda" and not torch.cuda.is_available():
        built = "" if torch.version.cuda else ": this PyTorch was built for CPUs only"
        raise ValueError(f"device={device!r}, but PyTorch finds no CUDA GPU on this machine{built}; use auto or cpu")
    if kind == "cuda" and number >= torch.cuda.device_count():
        raise ValueError(f"device={device!r}, but this machine has only {torch.cuda.device_count()} CUDA GPUs")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device={device!r}, but PyTorch finds no Apple GPU on this machine; use auto or cpu")


class TransformersBackend(Backend):
    """Backend of a causal language model in this process.

    Parameters
    ----------
    network
        A ``...ForCausalLM`` whose attention is :mod:`cell2sen.engine.network.attention`. It is switched to evaluation
        mode and otherwise not changed.

    Raises
    ------
    ValueError
        `network` has another attention or an output head that is not supported.
    """

    def __init__(
        self,
        model: Model,
        network: Any,
        tokens: Tokens,
        *,
        batch_size: int | None = None,
        progress: bool | Report = True,
        padding_side: Literal["left", "right"] = "right",
    ) -> None:
        self.model = model
        self.network = network.eval()
        self.tokens = tokens
        self.chat = tokens.chat
        self.batch_size = batch_size
        self.progress = progress
        self.base = network.base_model
        self.config = network.config.get_text_config()
        if self.config._attn_implementation != attention.NAME:
            raise ValueError(
                f"the network must be loaded with attn_implementation={attention.NAME!r}, "
                f"found {self.config._attn_implementation!r}"
            )
        self.context = int(self.config.max_position_embeddings)
        self.device: torch.device = self.base.get_input_embeddings().weight.device
        self.softcap = getattr(self.config, "attn_logit_softcapping", None)
        self.n_layers = int(self.config.num_hidden_layers)
        self.eos = tokens.eos | _ids(network.generation_config.eos_token_id) | _ids(self.config.eos_token_id)
        self.causal = CausalLM(network)
        self.embedder = Embedder(self.base, tokenize=self._tokenize, run=self._run, padding_side=padding_side)
        self.generator = Generator(self.causal, tokens, eos=self.eos, tokenize=self._tokenize, run=self._run_generating)

    def known_genes(self, symbols: Sequence[str]) -> NDArray[np.bool_]:
        """Which symbols are in the model's gene list (if it has one) and encoded without loss, bool (n,)."""
        return known_genes(self.model, self.tokens, symbols)

    def count_tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        return self.tokens.count(texts)

    @torch.inference_mode()
    def embed(
        self,
        prompts: Sequence[Prompt],
        *,
        pooling: Pooling = "mean",
        layer: int = -1,
        attention_for: Sequence[int] = (),
        attention_layer: int = -1,
    ) -> Embeddings:
        check_embed(
            len(prompts),
            self.n_layers,
            pooling=pooling,
            layer=layer,
            attention_for=attention_for,
            attention_layer=attention_layer,
        )
        fitted, lengths = self._fit(prompts, [0] * len(prompts))
        return self.embedder.embed(
            fitted,
            lengths,
            pooling=pooling,
            layer=layer,
            attention_for=attention_for,
            attention_layer=attention_layer % self.n_layers,
        )

    @torch.inference_mode()
    def embed_edited(
        self, prompts: Sequence[Prompt], bases: Sequence[Prompt], base_of: Sequence[int]
    ) -> NDArray[np.float32]:
        if self._rows_per_batch() is not None:  # a fixed number of rows
            return self.embed(prompts).vectors
        fitted, _ = self._fit(prompts, [0] * len(prompts))
        rows = self._tokenize(fitted)
        whole = self._tokenize(self._fit(bases, [0] * len(bases))[0])
        is_shared = [edited.is_worth_it(row.ids, whole[base].ids) for row, base in zip(rows, base_of, strict=True)]
        vectors = np.zeros((len(prompts), int(self.config.hidden_size)), dtype=np.float32)
        shared = [row for row, is_own in enumerate(is_shared) if is_own]
        rest = [row for row, is_own in enumerate(is_shared) if not is_own]
        if rest:
            vectors[rest] = self.embed([prompts[row] for row in rest]).vectors
        if shared:
            vectors[shared] = edited.mean_vectors(
                self.causal,
                whole,
                [rows[row] for row in shared],
                [base_of[row] for row in shared],
                budget=self._token_budget(cached=True),
                progress=self.progress,
            )
        return vectors

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, genes: Sequence[str] | None = None
    ) -> list[str]:
        sampling = replace(sampling, stop=tuple(dict.fromkeys((*sampling.stop, *self.model.stop))))
        if genes is None:
            fitted, lengths = self._fit(prompts, [sampling.max_new_tokens] * len(prompts))
            return self.generator.free(fitted, lengths, sampling)
        listed = tuple(dict.fromkeys(genes))
        n_genes = answer_lengths(prompts, listed)
        if not prompts:
            return []
        reserved = for_genes(self.tokens, listed, n_genes, self.known_genes(listed))
        fitted, lengths = self._fit(prompts, reserved)
        return self.generator.guided(fitted, lengths + reserved, sampling, listed, n_genes)

    @torch.inference_mode()
    def score(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *, margin: float | None = None
    ) -> NDArray[np.float64]:
        if not prompts or not answers:
            return np.zeros((len(prompts), len(answers)), dtype=np.float64)
        reserved = for_answers(self.tokens, prompts, answers)
        fitted, lengths = self._fit(prompts, reserved)
        run = partial(self._run, cached=True)
        return scoring.score(self.causal, self.tokens, fitted, lengths + reserved, answers, run=run, margin=margin)

    @torch.inference_mode()
    def expect(
        self, prompts: Sequence[Prompt], genes: Sequence[str], rank_values: RankValues, *, seed: int = 0
    ) -> NDArray[np.float32]:
        n_genes = answer_lengths(prompts, genes)
        expected = np.zeros((len(prompts), len(genes)), dtype=np.float32)
        if not prompts:
            return expected
        last_words = {genes[0], *(prompt.text.split()[-1] for prompt in prompts)}
        ids, *others = [self.tokens.continuations(word, genes) for word in sorted(last_words)]
        single = all(len(gene) == 1 for gene in ids) and len({gene[0] for gene in ids}) == len(ids)
        if not single or any(other != ids for other in others):
            raise Unsupported(
                f"{self.model.name} writes genes as several tokens, so expected values cannot be computed; "
                "use readout='sentence' of perturb, or generate"
            )
        gene_ids = np.array([gene[0] for gene in ids], dtype=np.int64)
        fitted, lengths = self._fit(prompts, n_genes)

        def expect_batch(batch: list[int]) -> None:
            rows = [row.ids for row in self._tokenize([fitted[row] for row in batch])]
            keys = [row_key(seed, prompts[row].key) for row in batch]
            lengths_of_answers, values = [n_genes[row] for row in batch], [rank_values[row] for row in batch]
            expected[batch] = expected_values(self.causal, rows, gene_ids, lengths_of_answers, values, keys)

        self._run_generating(expect_batch, lengths + np.array(n_genes), "expected expression")
        return expected

    # -- shared by all verbs

    def _fit(
        self, prompts: Sequence[Prompt], reserved: Sequence[int] | NDArray[np.int64]
    ) -> tuple[list[Prompt], NDArray[np.int64]]:
        return fit(prompts, context=self.context, reserved_tokens=reserved, count=self.tokens.lengths)

    def _tokenize(self, prompts: Sequence[Prompt]) -> list[Tokenized]:
        rows = self.tokens.encode(prompts)
        if empty := [prompt.key for prompt, row in zip(prompts, rows, strict=True) if not len(row)]:
            raise ValueError(f"prompts without any text: {empty}; give each of them an instruction or genes")
        return rows

    def _rows_per_batch(self) -> int | None:
        # LLM.int8() determines outlier columns over a whole batch, so rows would depend on their neighbours.
        size = 1 if self.model.quantize == "8bit" else self.batch_size
        if size is not None and size < 1:
            raise ValueError(f"batch_size must be at least 1 or None, found {size}")
        return size

    def _run(
        self,
        work: batching.Work,
        lengths: NDArray[np.int64],
        name: str,
        *,
        cached: bool = False,
        generating: bool = False,
    ) -> None:
        """Processes all rows in batches within free memory; options of :func:`batching.token_budget`."""
        size, budget = self._rows_per_batch(), self._token_budget(cached=cached, generating=generating)
        lengths = np.array([common_length(length, self.context) for length in lengths.tolist()], dtype=np.int64)
        batching.run_batches(work, lengths, budget=budget, size=size, progress=self.progress, name=name)

    def _token_budget(self, *, cached: bool = False, generating: bool = False) -> int:
        item_size = self.base.get_input_embeddings().weight.element_size()
        return batching.token_budget(self.config, self.device, item_size, cached=cached, generating=generating)

    def _run_generating(self, work: batching.Work, lengths: NDArray[np.int64], name: str) -> None:
        self._run(work, lengths, name, cached=True, generating=True)


def _ids(token: int | Sequence[int] | None) -> frozenset[int]:
    return frozenset() if token is None else frozenset([token] if isinstance(token, int) else token)
