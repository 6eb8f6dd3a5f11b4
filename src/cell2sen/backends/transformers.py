"""Causal language models through Hugging Face transformers, on CPU or GPU.

Axes in names: B batch, L length, D hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tqdm import tqdm

from cell2sen import attention, batches, embedding
from cell2sen.backend import Backend, Embeddings, Pooling, Sampling, check_asks, check_embed
from cell2sen.decode import Free, Steer, noise, positions, write
from cell2sen.guide import GeneTrie, Guide
from cell2sen.model import Model
from cell2sen.task import Prompt
from cell2sen.tokens import Tokenized, Tokens, fit, load_tokens, pad, shared

_log = logging.getLogger(__name__)
_hf: Any = transformers  # typed in parts only

#: Tokens in a batch where no batch size is given.
TOKEN_BUDGET = {"cpu": 16_384, "cuda": 65_536}

#: Architectures whose head is known to be the output embedding, and a soft-cap where the config has one.
_PLAIN_HEADS = ("gemma2", "gpt_neox")

#: Logits in float64 held at a time when scoring: 128 MiB.
_LOGITS = 2**24


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
        A ``...ForCausalLM`` whose attention is :mod:`cell2sen.attention`.

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
        self._vocabulary = int(network.get_output_embeddings().out_features)
        self._tries: dict[tuple[tuple[str, ...], str], GeneTrie] = {}
        if self.config.model_type not in _PLAIN_HEADS:
            self._check_head()

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
        if genes is not None:
            return self._generate_genes(prompts, sampling, tuple(dict.fromkeys(genes)))
        fitted, lengths = self._fit(prompts, [sampling.max_new_tokens] * len(prompts))
        texts = [""] * len(fitted)
        for batch in self._batches(lengths + sampling.max_new_tokens, "generate"):
            steer = Free(len(batch), self.tokens.text, eos=self.eos, limit=sampling.max_new_tokens, stop=sampling.stop)
            self._write([fitted[row] for row in batch], steer, sampling)
            for place, row in enumerate(batch):
                texts[row] = steer.text(place)
        return texts

    @torch.inference_mode()
    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> NDArray[np.float64]:
        scores = np.zeros((len(prompts), len(answers)), dtype=np.float64)
        if not prompts or not answers:
            return scores
        # The same cut for all answers of a cell, or they could not be compared. Behind a prompt an answer may take a
        # token more or less than alone, so it is measured there.
        room = [
            max(max(map(len, self.tokens.encode([bare] * len(answers), answers))) - self.tokens.lengths([bare])[0], 0)
            for bare in (prompt.shorten(0) for prompt in prompts)
        ]
        fitted, lengths = self._fit(prompts, room)
        for batch in self._batches(lengths + room, "score"):
            cells = [self.tokens.encode([fitted[row]] * len(answers), answers) for row in batch]
            # What all texts of a cell share is computed once, and each answer is read behind it.
            begun = [texts[0][: shared(texts)] for texts in cells]
            if empty := [prompts[row].key for row, begin in zip(batch, begun, strict=True) if not len(begin)]:
                raise ValueError(f"the prompts of {empty} have no token before the answer")
            ids_BL, real_BL, _ = self._pad(begun, "left")
            cache = self._cache()
            last_BD = self._forward(ids_BL, real_BL, positions(real_BL), cache)[:, -1]
            for column in range(len(answers)):
                rest = [texts[column][len(begin) :] for texts, begin in zip(cells, begun, strict=True)]
                scores[batch, column] = self._read(rest, last_BD, real_BL, cache)
        return scores

    # -- the parts of generate

    def _generate_genes(self, prompts: Sequence[Prompt], sampling: Sampling, genes: tuple[str, ...]) -> list[str]:
        asks = check_asks(prompts, genes)
        if not prompts:
            return []
        if unknown := [gene for gene, known in zip(genes, self.known_genes(genes), strict=True) if not known]:
            raise ValueError(
                f"the model cannot write {len(unknown)} of {len(genes)} genes, such as {unknown[:5]}; see known_genes"
            )
        # The mean, not the worst case, which would cut half of a long prompt for names that are hardly ever written.
        each = float(np.mean([len(ids) for ids in self.tokens.continuations(genes[0], genes)]))
        room = np.array([math.ceil(ask * each) for ask in asks])
        fitted, lengths = self._fit(prompts, room)
        texts = [""] * len(fitted)
        by_trie: dict[int, tuple[GeneTrie, list[int]]] = {}
        for row, prompt in enumerate(fitted):
            trie = self._trie(genes, prompt.text)
            by_trie.setdefault(id(trie), (trie, []))[1].append(row)
        ends = self._guided_ends(genes[0], sampling)
        for trie, members in by_trie.values():
            for places in self._batches((lengths + room)[members], "generate"):
                batch = [members[place] for place in places]
                guide = Guide(trie, [asks[row] for row in batch], ends, self._vocabulary)
                self._write([fitted[row] for row in batch], guide, sampling)
                for place, row in enumerate(batch):
                    texts[row] = " ".join(genes[gene] for gene in guide.written[place])
        return texts

    def _trie(self, genes: tuple[str, ...], text: str) -> GeneTrie:
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

    def _guided_ends(self, gene: str, sampling: Sampling) -> list[int]:
        """Tokens that show that the last gene is complete: end of text, the full stop of a sentence, stop strings."""
        ends = {*self.eos}
        for string in (".", *sampling.stop):
            [bare], [joined] = self.tokens.ids([gene]), self.tokens.ids([gene + string])
            if joined[: len(bare)] == bare and len(joined) > len(bare):
                ends.add(joined[len(bare)])
        return sorted(ends)

    def _write(self, prompts: Sequence[Prompt], steer: Steer, sampling: Sampling) -> None:
        """Let the model write behind the prompts; `steer` collects what it writes."""
        ids_BL, real_BL, _ = self._pad(self._tokenize(prompts), "left")
        cache = self._cache()
        write(
            ids_BL,
            real_BL,
            steer,
            [noise(sampling.seed, prompt.key) for prompt in prompts],
            next_logits=lambda ids, real, position: self._head(self._forward(ids, real, position, cache)[:, -1]),
            keep=cache.batch_select_indices,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
        )

    # -- the parts of score

    def _read(
        self, rows: Sequence[Tokenized], last_BD: torch.Tensor, real_BL: torch.Tensor, cache: Any
    ) -> NDArray[np.float64]:
        """Log-probability of each row's answer, float64 (B,), where `rows` go on behind the cached texts."""
        hidden_BLD = last_BD[:, None]
        if (length := max(map(len, rows))) > 1:
            ids_BL, _, _ = self._pad([row[:-1] for row in rows], "right")
            position_BL = real_BL.sum(dim=1, keepdim=True) + torch.arange(length - 1, device=self.device)
            mask_BL = torch.nn.functional.pad(real_BL, (0, length - 1), value=True)
            # The cache grows by new tensors, so a shallow copy of its layers leaves the original as it was.
            behind = copy.copy(cache)
            behind.layers = [copy.copy(layer) for layer in cache.layers]
            hidden_BLD = torch.cat([hidden_BLD, self._forward(ids_BL, mask_BL, position_BL, behind)], dim=1)
        wanted = [(line, at, int(row.ids[at])) for line, row in enumerate(rows) for at in range(row.answer, len(row))]
        scores = np.zeros(len(rows), dtype=np.float64)
        step = max(1, _LOGITS // self._vocabulary)
        for first in range(0, len(wanted), step):
            line, at, token = (
                torch.tensor(column, device=self.device) for column in zip(*wanted[first : first + step], strict=True)
            )
            log_share = self._head(hidden_BLD[line, at]).double().log_softmax(dim=1)
            np.add.at(scores, line.cpu().numpy(), log_share.gather(1, token[:, None])[:, 0].cpu().numpy())
        return scores

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

    def _run(self, work: Callable[[list[int]], None], lengths: NDArray[np.int64], name: str) -> None:
        """Do all rows batch by batch, in as much memory as there is."""
        size = self._batch_rows()
        budget = batches.token_budget(self.config, self.device, self.base.get_input_embeddings().weight.element_size())
        batches.run(work, lengths, budget=budget, size=size, progress=self.progress, name=name)

    def _batches(self, lengths: NDArray[np.int64], what: str) -> Iterator[list[int]]:
        """Rows of similar length, the longest first: what does not fit into memory fails at once."""
        order = np.argsort(-lengths, kind="stable").tolist()
        size = self._batch_rows()
        groups, budget = [], TOKEN_BUDGET.get(self.device.type, TOKEN_BUDGET["cpu"])
        while order:
            n_rows = size if size is not None else max(1, budget // max(1, int(lengths[order[0]])))
            groups.append(order[:n_rows])
            order = order[n_rows:]
        with tqdm(
            total=len(lengths), desc=what, unit="cell", file=sys.stderr, disable=not self.progress or len(groups) <= 3
        ) as bar:
            for batch in groups:
                yield batch
                bar.update(len(batch))

    def _pad(self, rows: Sequence[Tokenized], side: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids int64, real tokens bool and genes int64, each (B, L)."""
        ids_BL, real_BL, gene_BL = (torch.from_numpy(array).to(self.device) for array in pad(rows, side))
        return ids_BL, real_BL, gene_BL

    def _cache(self) -> Any:
        return _hf.DynamicCache(config=self.config)

    def _forward(
        self, ids_BL: torch.Tensor, real_BL: torch.Tensor, position_BL: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        """Hidden states behind the final norm; `cache` grows by these tokens."""
        output = self.base(
            input_ids=ids_BL, attention_mask=real_BL, position_ids=position_BL, past_key_values=cache, use_cache=True
        )
        hidden_BLD: torch.Tensor = output.last_hidden_state
        return hidden_BLD

    def _head(self, hidden_BD: torch.Tensor) -> torch.Tensor:
        """Logits of the next token, float32 (B, V), with the model's final soft-cap."""
        logits_BV: torch.Tensor = self.network.get_output_embeddings()(hidden_BD)
        if (cap := getattr(self.config, "final_logit_softcapping", None)) is not None:
            logits_BV = cap * torch.tanh(logits_BV / cap)
        return logits_BV.float()

    @torch.inference_mode()
    def _check_head(self) -> None:
        ids_BL = torch.tensor([[0, 1]], device=self.device)
        whole_BV = self.network(input_ids=ids_BL, use_cache=False).logits[:, -1].float()
        parts_BV = self._head(self.base(input_ids=ids_BL, use_cache=False).last_hidden_state[:, -1])
        if not torch.allclose(whole_BV, parts_BV, rtol=1e-2, atol=1e-3):
            raise ValueError(
                f"the head of {self.config.model_type!r} is not known; known: {list(_PLAIN_HEADS)} and plain ones"
            )


def _ids(token: int | Sequence[int] | None) -> frozenset[int]:
    return frozenset() if token is None else frozenset([token] if isinstance(token, int) else token)
