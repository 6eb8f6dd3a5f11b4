"""A causal language model taken apart: hidden states behind what was read before, and logits of the next token.

Axes in names: B rows of the batch, Q new tokens of each, K key-value heads, T slots of the cache, D hidden size,
N places where a token is decided, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from cell2sen.engine.network import attention
from cell2sen.engine.network.linear import is_plain, linear
from cell2sen.engine.tokenization.tokenizer import common_length

_hf: Any = transformers  # typed in parts only

#: Architectures whose head is known to be the output embedding, and a soft-cap where the config has one.
_PLAIN_HEADS = ("gemma2", "gpt_neox")

#: Logits in float32 held at a time where all of a vocabulary are needed: 16 MiB, which a processor's cache may hold.
_LOGITS = 2**22


class Slots(_hf.Cache):  # type: ignore[misc]
    """Keys and values of what each row has read; the token at place p of a row lies in slot p, whatever the row.

    So rows of different length share one cache, and what was read in vain is simply written over.

    Parameters
    ----------
    n_layers
        Layers of the model.
    room
        Slots that are expected to be needed. More are made where they are.
    """

    def __init__(self, n_layers: int, room: int) -> None:
        super().__init__(layers=[_Layer(self) for _ in range(n_layers)])
        self.room = room
        self.first: int | torch.Tensor = 0
        """Where new tokens go: from one slot on, in all rows, or to slots of their own, int64 (B, Q)."""
        self.end = 0
        """Slots that are looked at."""

    def take(self, rows: torch.Tensor) -> None:
        """Go on with these rows, int64; a row may be left out, or taken several times."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys, layer.values = layer.keys[rows], layer.values[rows]


class _Layer(_hf.cache_utils.CacheLayerMixin):  # type: ignore[misc]
    is_sliding = False  # a window is the attention's business: what it leaves behind may be needed after a step back

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self._slots = slots

    def lazy_initialization(self, keys_BKQD: torch.Tensor, values_BKQD: torch.Tensor) -> None:
        self.keys, self.values = (
            each.new_zeros((*each.shape[:2], 0, each.shape[3])) for each in (keys_BKQD, values_BKQD)
        )
        self.is_initialized = True

    def update(
        self, keys_BKQD: torch.Tensor, values_BKQD: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(keys_BKQD, values_BKQD)
        self.keys, self.values = self._put(self.keys, keys_BKQD), self._put(self.values, values_BKQD)
        return self.keys[:, :, : self._slots.end], self.values[:, :, : self._slots.end]

    def _put(self, held_BKTD: torch.Tensor, new_BKQD: torch.Tensor) -> torch.Tensor:
        slots = self._slots
        if (lacking := slots.end - held_BKTD.shape[2]) > 0:
            lacking = max(lacking, held_BKTD.shape[2] // 2 or slots.room)
            # Zeros: a slot that is not seen is still multiplied by its weight of nothing.
            held_BKTD = torch.nn.functional.pad(held_BKTD, (0, 0, 0, lacking))
        if isinstance(slots.first, int):
            held_BKTD[:, :, slots.first : slots.first + new_BKQD.shape[2]] = new_BKQD
        else:
            held_BKTD.scatter_(2, slots.first[:, None, :, None].expand_as(new_BKQD), new_BKQD)
        return held_BKTD

    def get_seq_length(self) -> int:
        return self._slots.end

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._slots.end, 0


class Head:
    """Logits of the tokens that may be written.

    Parameters
    ----------
    columns
        Token ids, int64 (C,); None for all of the vocabulary.
    """

    def __init__(self, causal: Causal, columns: NDArray[np.int64] | None = None) -> None:
        self._causal = causal
        self._columns = None if columns is None else torch.from_numpy(columns).to(causal.device)
        self._rows: tuple[torch.Tensor, torch.Tensor | None] | None = None
        embedding: Any = causal.network.get_output_embeddings()
        if self._columns is not None and is_plain(embedding):
            bias: torch.Tensor | None = getattr(embedding, "bias", None)
            self._rows = embedding.weight[self._columns], None if bias is None else bias[self._columns]

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """float32 (N, C), with the model's final soft-cap."""
        if self._rows is None:
            logits_NV = self._causal.head(hidden_ND)
            return logits_NV if self._columns is None else logits_NV[:, self._columns]
        return self._causal.capped(linear(hidden_ND, *self._rows))

    def log_probabilities(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """float64 (N, C): of these tokens among all of the vocabulary, of which a part is held at a time."""
        if self._rows is None:
            step = max(1, _LOGITS // self._causal.vocabulary)
            columns = slice(None) if self._columns is None else self._columns
            parts = []
            for part_ND in torch.split(hidden_ND, step):
                logits_NV = self._causal.head(part_ND)
                chosen_NC = logits_NV[:, columns].double()
                parts.append(chosen_NC - _log_sum_exp(logits_NV).double()[:, None])
            return torch.cat(parts)
        embedding: Any = self._causal.network.get_output_embeddings()
        step = max(1, _LOGITS // len(hidden_ND))
        biases = [None] * len(embedding.weight) if embedding.bias is None else embedding.bias.split(step)
        sums = [
            _log_sum_exp(self._causal.capped(linear(hidden_ND, weight, bias)))
            for weight, bias in zip(embedding.weight.split(step), biases, strict=False)
        ]
        return self.logits(hidden_ND).double() - torch.stack(sums).logsumexp(dim=0).double()[:, None]


def _log_sum_exp(logits_NV: torch.Tensor) -> torch.Tensor:
    """float32 (N,); the logits are written over, since with a large vocabulary new memory takes longer than numbers."""
    highest_N1 = logits_NV.amax(dim=1, keepdim=True)
    return logits_NV.sub_(highest_N1).exp_().sum(dim=1).log_().add_(highest_N1[:, 0])


class Causal:
    """A network that generation and scoring read and write with.

    Parameters
    ----------
    network
        A ``...ForCausalLM`` whose attention is :mod:`cell2sen.engine.network.attention`.

    Raises
    ------
    ValueError
        Its logits are not those of its output embedding and final soft-cap.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self.base = network.base_model
        self.config = network.config.get_text_config()
        self.device: torch.device = self.base.get_input_embeddings().weight.device
        self.vocabulary = int(network.get_output_embeddings().out_features)
        self._cache = cache_name(network)
        if self.config.model_type not in _PLAIN_HEADS:
            self._check_head()

    def begin(self, rows: Sequence[NDArray[np.int32]], room: int) -> Slots:
        """Read the beginnings of texts, each once, and what they have in common once for all of them.

        Nothing but keys and values is made: what the last layer would make of them is left out.

        Parameters
        ----------
        rows
            Token ids of each row, int32; they may be empty.
        room
            Slots that are expected to be needed in all.
        """
        slots = Slots(int(self.config.num_hidden_layers), room)
        distinct = {row.tobytes(): row for row in rows}
        place = {key: number for number, key in enumerate(distinct)}
        texts = list(distinct.values())
        common = _common(texts)
        if common:
            self._append(texts[0][None, :common], 0, slots)
        if len(texts) > 1:
            if common:
                slots.take(torch.zeros(len(texts), dtype=torch.int64, device=self.device))
            rest = np.zeros((len(texts), max(map(len, texts)) - common), dtype=np.int64)
            for line, text in zip(rest, texts, strict=True):
                line[: len(text) - common] = text[common:]
            self._append(rest, common, slots)
        if len(texts) < len(rows):
            slots.take(torch.tensor([place[row.tobytes()] for row in rows], device=self.device))
        return slots

    def read(
        self,
        ids_BQ: NDArray[np.integer],
        position_BQ: NDArray[np.int64],
        slots: Slots,
    ) -> torch.Tensor:
        """Hidden states (B, Q, D) of tokens behind what the slots hold of each row; a token sees what lies before it.

        Parameters
        ----------
        ids_BQ, position_BQ
            Token ids and their places in the text. Padding goes behind a row's own tokens.
        """
        position = torch.from_numpy(position_BQ).to(self.device)
        slots.first, slots.end = position, int(position_BQ.max()) + 1
        key = torch.arange(slots.end, device=self.device)[None]
        return self._forward(
            ids_BQ, position, attention.Sight(key[:, None] <= position[:, :, None], position, key), slots
        )

    def read_tree(
        self,
        ids_BQ: NDArray[np.integer],
        depth_Q: NDArray[np.int64],
        above_QQ: NDArray[np.bool_],
        lengths_B: NDArray[np.int64],
        slots: Slots,
    ) -> torch.Tensor:
        """Hidden states (B, Q, D) of a tree of continuations behind each row. The slots may be used again as they were.

        Parameters
        ----------
        ids_BQ
            Token ids of the nodes.
        depth_Q
            Tokens between the row's end and each node.
        above_QQ
            Which nodes (columns) each node (rows) follows, itself included.
        lengths_B
            Tokens of each row that are read.
        """
        read, (n_rows, n_nodes) = int(lengths_B.max(initial=0)), ids_BQ.shape
        slots.first, slots.end = read, read + n_nodes
        lengths = torch.from_numpy(lengths_B).to(self.device)[:, None]
        place = torch.arange(read, device=self.device)[None]
        position = lengths + torch.from_numpy(depth_Q).to(self.device)[None]
        visible = torch.cat(
            [
                (place < lengths)[:, None].expand(-1, n_nodes, -1),
                torch.from_numpy(above_QQ).to(self.device)[None].expand(n_rows, -1, -1),
            ],
            dim=2,
        )
        sight = attention.Sight(visible, position, torch.cat([place.expand(n_rows, -1), position], dim=1))
        return self._forward(ids_BQ, position, sight, slots)

    def head(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Logits of the next token, float32 (N, V), with the model's final soft-cap."""
        return self.capped(self.network.get_output_embeddings()(hidden_ND))

    def capped(self, logits: torch.Tensor) -> torch.Tensor:
        """What the output embedding gave, which may be written over, as float32 with the model's final soft-cap."""
        if (cap := getattr(self.config, "final_logit_softcapping", None)) is None:
            return logits.float()
        if logits.requires_grad:
            return torch.tanh(logits / cap).mul(cap).float()
        # With a large vocabulary new memory takes longer than the numbers.
        if logits.dtype == torch.float32:
            return attention.tanh_of_half_(logits.mul_(2 / cap)).mul_(cap)
        return logits.div_(cap).tanh_().mul_(cap).float()

    def _append(self, ids_BQ: NDArray[np.integer], first: int, slots: Slots) -> None:
        # Filled up behind each text, in slots that its next tokens are written to.
        most = int(self.config.max_position_embeddings) - first
        ids_BQ = np.pad(ids_BQ, ((0, 0), (0, common_length(ids_BQ.shape[1], most) - ids_BQ.shape[1])))
        slots.first, slots.end = first, first + ids_BQ.shape[1]
        with attention.until(int(self.config.num_hidden_layers) - 1):
            self._forward(ids_BQ, torch.arange(first, slots.end, device=self.device)[None], None, slots)

    def _forward(
        self, ids_BQ: NDArray[np.integer], position_BQ: torch.Tensor, sight: attention.Sight | None, slots: Slots
    ) -> torch.Tensor:
        named = {"position_ids": position_BQ, self._cache: slots, "use_cache": True}
        with attention.seeing(sight):
            output = self.base(input_ids=torch.from_numpy(ids_BQ).to(self.device, torch.int64), **named)
        hidden_BQD: torch.Tensor = output.last_hidden_state
        return hidden_BQD

    @torch.inference_mode()
    def _check_head(self) -> None:
        ids_BL = torch.tensor([[0, 1]], device=self.device)
        whole_BV = self.network(input_ids=ids_BL, use_cache=False).logits[:, -1].float()
        parts_BV = self.head(self.base(input_ids=ids_BL, use_cache=False).last_hidden_state[:, -1])
        if not torch.allclose(whole_BV, parts_BV, rtol=1e-2, atol=1e-3):
            raise ValueError(
                f"the head of {self.config.model_type!r} is not known; known: {list(_PLAIN_HEADS)} and plain ones"
            )


def cache_name(network: torch.nn.Module) -> str:
    """What transformers calls the cache: ``past_key_values`` until 5.23, ``cache`` since; the other goes with 5.40."""
    models = {type(module) for module in network.modules() if isinstance(module, _hf.PreTrainedModel)}
    renamed = any("cache" in inspect.signature(model.forward).parameters for model in models)
    return "cache" if renamed else "past_key_values"


def _common(rows: Sequence[NDArray[np.int32]]) -> int:
    """Tokens at the beginning that all rows have in common."""
    length = min(map(len, rows))
    same = np.all(np.stack([row[:length] for row in rows]) == rows[0][:length], axis=0)
    return length if same.all() else int(np.argmin(same))
