"""Incremental forward pass of a causal LM: shared prefixes, hidden states, logits.

Axes in names: B rows of the batch, Q new tokens of each row, T positions of the cache, D hidden size, N hidden states,
V vocabulary, C columns (token ids) of the output head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.engine.network import attention_context
from cell2sen.engine.network.attention_context import AttentionMask
from cell2sen.engine.network.cpu import is_plain_linear, linear
from cell2sen.engine.network.kv_cache import KeyValueCache, cache_argument
from cell2sen.engine.network.softcap import soft_cap_logits
from cell2sen.engine.tokenization.tokenizer import common_length

#: Architectures whose logits are those of the output embedding and, if configured, the soft-cap; others are tested.
_KNOWN_HEADS = ("gemma2", "gpt_neox")

#: Maximum number of logits in memory for sums over the vocabulary: 16 MiB in float32, which may fit into a CPU cache.
_MAX_LOGITS = 2**22


class Head:
    """Output head restricted to some tokens.

    Parameters
    ----------
    columns
        Token ids, int64 (C,); None for the whole vocabulary.
    """

    def __init__(self, causal: CausalLM, columns: NDArray[np.int64] | None = None) -> None:
        self._causal = causal
        self._columns = None if columns is None else torch.from_numpy(columns).to(causal.device)
        self._weights: tuple[torch.Tensor, torch.Tensor | None] | None = None
        embedding: Any = causal.network.get_output_embeddings()
        if self._columns is not None and is_plain_linear(embedding):
            bias: torch.Tensor | None = getattr(embedding, "bias", None)
            self._weights = embedding.weight[self._columns], None if bias is None else bias[self._columns]

    @property
    def is_plain(self) -> bool:
        """Whether logits of the columns are computed without those of the whole vocabulary."""
        return self._weights is not None

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Logits of the columns, float32 (N, C), with the model's final soft-cap."""
        if self._weights is None:
            logits_NV = self._causal.logits(hidden_ND)
            return logits_NV if self._columns is None else logits_NV[:, self._columns]
        return self._causal.soft_capped(linear(hidden_ND, *self._weights))

    def log_probabilities(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the columns among the whole vocabulary, float64 (N, C), computed in parts."""
        if self._weights is None:
            step = max(1, _MAX_LOGITS // self._causal.vocabulary)
            columns = slice(None) if self._columns is None else self._columns
            parts = []
            for part_ND in torch.split(hidden_ND, step):
                logits_NV = self._causal.logits(part_ND)
                columns_NC = logits_NV[:, columns].double()
                parts.append(columns_NC - _log_sum_exp_(logits_NV).double()[:, None])
            return torch.cat(parts)
        normaliser_N1 = self.log_normaliser(hidden_ND)[:, None]
        return self.logits(hidden_ND).double() - normaliser_N1

    def log_normaliser(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Log of the sum of exp(logit) over the whole vocabulary, float64 (N,), computed in parts. For a plain head."""
        embedding: Any = self._causal.network.get_output_embeddings()
        step = max(1, _MAX_LOGITS // len(hidden_ND))
        biases = [None] * len(embedding.weight) if embedding.bias is None else embedding.bias.split(step)
        sums = [
            _log_sum_exp_(self._causal.soft_capped(linear(hidden_ND, weight, bias)))
            for weight, bias in zip(embedding.weight.split(step), biases, strict=False)
        ]
        return torch.stack(sums).logsumexp(dim=0).double()


def _log_sum_exp_(logits_NV: torch.Tensor) -> torch.Tensor:
    """Logsumexp, float32 (N,). Overwrites the logits, since for a large vocabulary new memory takes longer."""
    highest_N1 = logits_NV.amax(dim=1, keepdim=True)
    return logits_NV.sub_(highest_N1).exp_().sum(dim=1).log_().add_(highest_N1[:, 0])


class CausalLM:
    """Causal language model, run incrementally for generation and scoring.

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
        self._cache_argument = cache_argument(network)
        if self.config.model_type not in _KNOWN_HEADS:
            self._check_head()

    def prefill(self, rows: Sequence[NDArray[np.int32]], capacity: int) -> KeyValueCache:
        """Cache of the first tokens of texts. Equal texts are read once, and so is the prefix that all share.

        Computes keys and values only, so the rest of the last layer is skipped.

        Parameters
        ----------
        rows
            Token ids of each row, int32; may be empty.
        capacity
            Expected number of positions, those of answers included.
        """
        cache = KeyValueCache(int(self.config.num_hidden_layers), capacity)
        distinct = {row.tobytes(): row for row in rows}
        place = {key: number for number, key in enumerate(distinct)}
        texts = list(distinct.values())
        common = _common_prefix(texts)
        if common:
            self._append(texts[0][None, :common], 0, cache)
        if len(texts) > 1:
            if common:
                cache.select_rows(torch.zeros(len(texts), dtype=torch.int64, device=self.device))
            rest = np.zeros((len(texts), max(map(len, texts)) - common), dtype=np.int64)
            for line, text in zip(rest, texts, strict=True):
                line[: len(text) - common] = text[common:]
            self._append(rest, common, cache)
        if len(texts) < len(rows):
            cache.select_rows(torch.tensor([place[row.tobytes()] for row in rows], device=self.device))
        return cache

    def hidden_states(
        self,
        ids_BQ: NDArray[np.integer],
        position_BQ: NDArray[np.int64],
        cache: KeyValueCache,
    ) -> torch.Tensor:
        """Hidden states (B, Q, D) of new tokens, which are added to the cache.

        Parameters
        ----------
        ids_BQ, position_BQ
            Token ids and their positions in the text. Padding comes after a row's own tokens. A token sees its own and
            earlier positions.
        """
        position = torch.from_numpy(position_BQ).to(self.device)
        cache.write_at, cache.length = position, int(position_BQ.max()) + 1
        key = torch.arange(cache.length, device=self.device)[None]
        return self.forward(ids_BQ, position, AttentionMask(key[:, None] <= position[:, :, None], position, key), cache)

    def tree_hidden_states(
        self,
        ids_BQ: NDArray[np.integer],
        depth_Q: NDArray[np.int64],
        ancestors_QQ: NDArray[np.bool_],
        lengths_B: NDArray[np.int64],
        cache: KeyValueCache,
    ) -> torch.Tensor:
        """Hidden states (B, Q, D) of a tree of continuations of each row. The cached tokens of the rows stay.

        Parameters
        ----------
        ids_BQ
            Token ids of the nodes.
        depth_Q
            Number of edges from node 0 to each node. Node 0 is at position `lengths_B`.
        ancestors_QQ
            Which nodes (columns) are ancestors of each node (rows) or the node itself.
        lengths_B
            Cached tokens of each row.
        """
        n_cached, (n_rows, n_nodes) = int(lengths_B.max(initial=0)), ids_BQ.shape
        cache.write_at, cache.length = n_cached, n_cached + n_nodes
        lengths = torch.from_numpy(lengths_B).to(self.device)[:, None]
        slot = torch.arange(n_cached, device=self.device)[None]
        position = lengths + torch.from_numpy(depth_Q).to(self.device)[None]
        visible = torch.cat(
            [
                (slot < lengths)[:, None].expand(-1, n_nodes, -1),
                torch.from_numpy(ancestors_QQ).to(self.device)[None].expand(n_rows, -1, -1),
            ],
            dim=2,
        )
        mask = AttentionMask(visible, position, torch.cat([slot.expand(n_rows, -1), position], dim=1))
        return self.forward(ids_BQ, position, mask, cache)

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Logits of the next token, float32 (N, V), with the model's final soft-cap."""
        return self.soft_capped(self.network.get_output_embeddings()(hidden_ND))

    def soft_capped(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits with the model's final soft-cap, float32; may overwrite `logits`."""
        return soft_cap_logits(logits, getattr(self.config, "final_logit_softcapping", None))

    def _append(self, ids_BQ: NDArray[np.integer], start: int, cache: KeyValueCache) -> None:
        """Adds keys and values of tokens from position `start` on."""
        # Padding follows each text, in slots that its next tokens overwrite.
        max_length = int(self.config.max_position_embeddings) - start
        ids_BQ = np.pad(ids_BQ, ((0, 0), (0, common_length(ids_BQ.shape[1], max_length) - ids_BQ.shape[1])))
        cache.write_at, cache.length = start, start + ids_BQ.shape[1]
        with attention_context.stop_at_attention(int(self.config.num_hidden_layers) - 1):
            self.forward(ids_BQ, torch.arange(start, cache.length, device=self.device)[None], None, cache)

    def forward(
        self, ids_BQ: NDArray[np.integer], position_BQ: torch.Tensor, mask: AttentionMask | None, cache: KeyValueCache
    ) -> torch.Tensor:
        """Hidden states (B, Q, D) of tokens that are written where `cache` has its ``write_at``.

        Without a mask each token sees itself and all slots before it.
        """
        arguments = {"position_ids": position_BQ, self._cache_argument: cache, "use_cache": True}
        with attention_context.use_mask(mask):
            output = self.base(input_ids=torch.from_numpy(ids_BQ).to(self.device, torch.int64), **arguments)
        hidden_BQD: torch.Tensor = output.last_hidden_state
        return hidden_BQD

    @torch.inference_mode()
    def _check_head(self) -> None:
        ids_BL = torch.tensor([[0, 1]], device=self.device)
        network_BV = self.network(input_ids=ids_BL, use_cache=False).logits[:, -1].float()
        parts_BV = self.logits(self.base(input_ids=ids_BL, use_cache=False).last_hidden_state[:, -1])
        if not torch.allclose(network_BV, parts_BV, rtol=1e-2, atol=1e-3):
            raise ValueError(
                f"the output head of {self.config.model_type!r} is not supported: its logits are not those of its "
                f"output embedding and soft-cap; supported: {list(_KNOWN_HEADS)} and models with a plain head"
            )


def _common_prefix(rows: Sequence[NDArray[np.int32]]) -> int:
    """Number of leading tokens that all rows share."""
    length = min(map(len, rows))
    equal = np.all(np.stack([row[:length] for row in rows]) == rows[0][:length], axis=0)
    return length if equal.all() else int(np.argmin(equal))
