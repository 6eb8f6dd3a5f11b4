"""Causal language models through Hugging Face transformers, on CPU or GPU.

Axes in names: B batch, L length, D hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from cell2sen.backend import Backend, Embeddings, Pooling, Sampling, Unsupported, check_asks, check_embed
from cell2sen.engine import embedding, scoring
from cell2sen.engine.decoding.sampling import row_key
from cell2sen.engine.expectation import expected
from cell2sen.engine.generation import Generator
from cell2sen.engine.network import attention, linear
from cell2sen.engine.network import batching as batches
from cell2sen.engine.network.allocator import keep_memory
from cell2sen.engine.network.causal_lm import Causal
from cell2sen.engine.tokenization.tokenizer import Tokenized, Tokens, common_length, fit, load_tokens
from cell2sen.model import Model
from cell2sen.prompt import Prompt

_log = logging.getLogger(__name__)
_hf: Any = transformers  # typed in parts only


def load(
    model: Model,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    progress: bool = True,
    offline: bool = True,
    padding_side: Literal["left", "right"] = "right",
) -> TransformersBackend:
    """Load a checkpoint from a local directory or from the hub's cache.

    Parameters
    ----------
    device
        ``"auto"`` is the GPU if there is one.
    batch_size
        Prompts in a batch; None: as many as memory allows, up to a number of tokens beyond which it is no faster.
    progress
        Show a progress bar on stderr for long work.
    offline
        Use what is on this machine; False fetches what is missing from the hub.
    padding_side
        Of the batches of :meth:`~TransformersBackend.embed`. Changes nothing in the results.

    Raises
    ------
    FileNotFoundError
        The checkpoint is not on this machine; names the command that fetches it.
    ValueError
        Its tokenizer or architecture cannot be read exactly.
    ImportError
        Quantisation was asked for and bitsandbytes is not installed.
    """
    if model.is_local:
        _check_files(model)
    keep_memory()
    where: dict[str, Any] = {"local_files_only": offline, "trust_remote_code": False}
    if not model.is_local:
        where["revision"] = model.revision
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = for_device(model, device)
    options: dict[str, Any] = {"dtype": getattr(torch, model.resolved_dtype), "use_safetensors": True}
    if model.quantize is not None:
        options |= {"quantization_config": _quantization(model), "device_map": {"": device}}
    try:
        config = _hf.AutoConfig.from_pretrained(model.path, **where)
        tokens = load_tokens(model.path, **where)
        with _bars(progress):
            network = _hf.AutoModelForCausalLM.from_pretrained(
                model.path, config=config, attn_implementation=attention.register(), **options, **where
            )
    except OSError as error:
        if model.is_local:
            raise
        revision = f" --revision {model.revision}" if model.revision else ""
        raise FileNotFoundError(
            f"the checkpoint {model.path!r} is not, or not wholly, on this machine; fetch it with\n"
            f"    hf download {model.path}{revision}\nor load it with offline=False. transformers says: {error}"
        ) from error
    if model.quantize is None:
        network.to(device)
        linear.use(network)
    for module in network.modules():
        # What bitsandbytes packs anew for CPUs with AVX-512 must consist of whole blocks, which it does not look at.
        if hasattr(module, "support_avx512bf16_for_cpu") and (module.in_features % 64 or module.out_features % 32):
            module.support_avx512bf16_for_cpu = False
    return TransformersBackend(
        model, network, tokens, batch_size=batch_size, progress=progress, padding_side=padding_side
    )


def for_device(model: Model, device: str) -> Model:
    """The model with the dtype that it is computed in on this device, unless the user has named one."""
    if device != "cpu" or model.dtype != "auto" or model.resolved_dtype != "bfloat16" or halves_are_fast():
        return model
    _log.info("this CPU has no bfloat16 instructions: computing in float32; dtype='bfloat16' forces them")
    return replace(model, dtype="float32")


def halves_are_fast() -> bool:
    """Whether this CPU multiplies bfloat16 itself; others convert each number, which takes longer than float32."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(found.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))


def _check_files(model: Model) -> None:
    patterns = ("config.json", "tokenizer.json", "*.safetensors")
    if lacks := [pattern for pattern in patterns if not any(Path(model.path).glob(pattern))]:
        raise FileNotFoundError(f"no checkpoint in {model.path!r}: it lacks {', '.join(lacks)}")


def _quantization(model: Model) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ImportError(
            f"quantize={model.quantize!r} needs bitsandbytes; install it with: pip install 'cell2sen[quant]'"
        )
    if model.quantize == "8bit":
        return _hf.BitsAndBytesConfig(load_in_8bit=True)
    return _hf.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, model.resolved_dtype)
    )


@contextlib.contextmanager
def _bars(progress: bool) -> Iterator[None]:
    """Progress bars of transformers, off unless wanted, and then as they were."""
    logging = _hf.utils.logging
    shown = logging.is_progress_bar_enabled()
    if not progress:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class TransformersBackend(Backend):
    """A causal language model in this process.

    Parameters
    ----------
    network
        A ``...ForCausalLM`` whose attention is :mod:`cell2sen.engine.network.attention`.

    Attributes
    ----------
    batch_size
        Prompts in a batch, None for a fixed number of tokens. May be assigned, is read at each call.
    softcap
        Soft-cap of the attention scores, None if the model has none. Always applied.
    """

    def __init__(
        self,
        model: Model,
        network: Any,
        tokens: Tokens,
        *,
        batch_size: int | None = None,
        progress: bool = True,
        padding_side: Literal["left", "right"] = "right",
    ) -> None:
        self.model = model
        self.network = network.eval()
        self.tokens = tokens
        self.batch_size = batch_size
        self.progress = progress
        self.padding_side = padding_side
        self.base = network.base_model
        self.config = network.config.get_text_config()
        if self.config._attn_implementation != attention.NAME:
            raise ValueError(f"the network must be loaded with attn_implementation={attention.NAME!r}")
        self.context = int(self.config.max_position_embeddings)
        self.device: torch.device = self.base.get_input_embeddings().weight.device
        self.softcap: float | None = getattr(self.config, "attn_logit_softcapping", None)
        self.n_layers = int(self.config.num_hidden_layers)
        self.eos = tokens.eos | _ids(network.generation_config.eos_token_id) | _ids(self.config.eos_token_id)
        self.causal = Causal(network)
        self.generator = Generator(self.causal, tokens, eos=self.eos, tokenize=self._tokenize, run=self._run_written)

    def known_genes(self, symbols: Sequence[str]) -> NDArray[np.bool_]:
        """Symbols that the tokenizer writes and reads back unchanged and, if the model has a fixed list, are on it."""
        known = self.tokens.known(symbols)
        if self.model.genes is not None:
            listed = frozenset(self.model.genes)
            known &= np.array([symbol in listed for symbol in symbols], dtype=bool)
        return known

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
        return embedding.embed(
            self.base,
            fitted,
            lengths,
            pooling=pooling,
            layer=layer,
            attention_for=attention_for,
            attention_layer=attention_layer % self.n_layers,
            tokenize=self._tokenize,
            run=self._run,
            padding_side=self.padding_side,
        )

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, genes: Sequence[str] | None = None
    ) -> list[str]:
        sampling = replace(sampling, stop=tuple(dict.fromkeys((*sampling.stop, *self.model.stop))))
        if genes is None:
            fitted, lengths = self._fit(prompts, [sampling.max_new_tokens] * len(prompts))
            return self.generator.free(fitted, lengths, sampling)
        listed = tuple(dict.fromkeys(genes))
        asks = check_asks(prompts, listed)
        if not prompts:
            return []
        if unknown := [gene for gene, known in zip(listed, self.known_genes(listed), strict=True) if not known]:
            raise ValueError(
                f"the model cannot write {len(unknown)} of {len(listed)} genes, such as {unknown[:5]}; see known_genes"
            )
        # The mean, not the worst case, which would cut half of a long prompt for names that are hardly ever written.
        each = float(np.mean([len(ids) for ids in self.tokens.continuations(listed[0], listed)]))
        room = np.array([math.ceil(ask * each) for ask in asks])
        fitted, lengths = self._fit(prompts, room)
        return self.generator.guided(fitted, lengths + room, sampling, listed, asks)

    @torch.inference_mode()
    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> NDArray[np.float64]:
        if not prompts or not answers:
            return np.zeros((len(prompts), len(answers)), dtype=np.float64)
        # The same cut for all answers of a cell, or they could not be compared. Behind a prompt an answer may take a
        # token more or less than alone, so it is measured there.
        room = [
            max(max(map(len, self.tokens.encode([bare] * len(answers), answers))) - self.tokens.lengths([bare])[0], 0)
            for bare in (prompt.shorten(0) for prompt in prompts)
        ]
        fitted, lengths = self._fit(prompts, room)
        return scoring.score(self.causal, self.tokens, fitted, lengths + room, answers, run=self._run_scored)

    @torch.inference_mode()
    def expect(
        self, prompts: Sequence[Prompt], genes: Sequence[str], worth: NDArray[np.float64], *, seed: int = 0
    ) -> NDArray[np.float32]:
        asks = check_asks(prompts, genes)
        result = np.zeros((len(prompts), len(genes)), dtype=np.float32)
        if not prompts:
            return result
        before = {genes[0], *(prompt.text.split()[-1] for prompt in prompts)}
        ids, *others = [self.tokens.continuations(word, genes) for word in sorted(before)]
        single = all(len(one) == 1 for one in ids) and len({one[0] for one in ids}) == len(ids)
        if not single or any(other != ids for other in others):
            raise Unsupported(f"{self.model.name} writes genes in several tokens, so what it expects can only be drawn")
        gene_ids = np.array([one[0] for one in ids], dtype=np.int64)
        fitted, lengths = self._fit(prompts, asks)

        def work(batch: list[int]) -> None:
            rows = [row.ids for row in self._tokenize([fitted[row] for row in batch])]
            keys = [row_key(seed, prompts[row].key) for row in batch]
            result[batch] = expected(self.causal, rows, gene_ids, [asks[row] for row in batch], worth, keys)

        self._run_written(work, lengths + np.array(asks), "expect")
        return result

    # -- the parts of all

    def _fit(
        self, prompts: Sequence[Prompt], room: Sequence[int] | NDArray[np.int64]
    ) -> tuple[list[Prompt], NDArray[np.int64]]:
        return fit(prompts, context=self.context, room=room, count=self.tokens.lengths)

    def _tokenize(self, prompts: Sequence[Prompt]) -> list[Tokenized]:
        rows = self.tokens.encode(prompts)
        if empty := [prompt.key for prompt, row in zip(prompts, rows, strict=True) if not len(row)]:
            raise ValueError(f"prompts without any text: {empty}")
        return rows

    def _batch_rows(self) -> int | None:
        # LLM.int8() finds its outlier columns over a whole batch: rows would depend on their neighbours.
        size = 1 if self.model.quantize == "8bit" else self.batch_size
        if size is not None and size < 1:
            raise ValueError(f"batch_size must be at least 1 or None, found {size}")
        return size

    def _run(self, work: Callable[[list[int]], None], lengths: NDArray[np.int64], name: str, **kind: bool) -> None:
        """Do all rows batch by batch, in as much memory as there is; `kind` as :func:`batches.token_budget` has it."""
        size, item_size = self._batch_rows(), self.base.get_input_embeddings().weight.element_size()
        budget = batches.token_budget(self.config, self.device, item_size, **kind)
        lengths = np.array([common_length(length, self.context) for length in lengths.tolist()], dtype=np.int64)
        batches.run(work, lengths, budget=budget, size=size, progress=self.progress, name=name)

    def _run_scored(self, work: Callable[[list[int]], None], lengths: NDArray[np.int64], name: str) -> None:
        self._run(work, lengths, name, cached=True)

    def _run_written(self, work: Callable[[list[int]], None], lengths: NDArray[np.int64], name: str) -> None:
        self._run(work, lengths, name, cached=True, written=True)


def _ids(token: int | Sequence[int] | None) -> frozenset[int]:
    return frozenset() if token is None else frozenset([token] if isinstance(token, int) else token)
