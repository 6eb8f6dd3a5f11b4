"""A causal language model taken apart: hidden states behind what was read before, and logits of the next token.

Axes in names: B batch, L length, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers

from cell2sen.tokens import Tokenized, pad

_hf: Any = transformers  # typed in parts only

#: Architectures whose head is known to be the output embedding, and a soft-cap where the config has one.
_PLAIN_HEADS = ("gemma2", "gpt_neox")


class Causal:
    """A network that generation and scoring read and write with.

    Parameters
    ----------
    network
        A ``...ForCausalLM`` whose attention is :mod:`cell2sen.attention`.

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
        if self.config.model_type not in _PLAIN_HEADS:
            self._check_head()

    def pad(self, rows: Sequence[Tokenized], side: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids int64 and real tokens bool, each (B, L)."""
        ids_BL, real_BL, _ = (torch.from_numpy(array).to(self.device) for array in pad(rows, side))
        return ids_BL, real_BL

    def cache(self) -> Any:
        """What was read so far: nothing."""
        return _hf.DynamicCache(config=self.config)

    def forward(
        self, ids_BL: torch.Tensor, real_BL: torch.Tensor, position_BL: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        """Hidden states behind the final norm; `cache` grows by these tokens."""
        output = self.base(
            input_ids=ids_BL, attention_mask=real_BL, position_ids=position_BL, past_key_values=cache, use_cache=True
        )
        hidden_BLD: torch.Tensor = output.last_hidden_state
        return hidden_BLD

    def head(self, hidden_BD: torch.Tensor) -> torch.Tensor:
        """Logits of the next token, float32 (B, V), with the model's final soft-cap."""
        logits_BV: torch.Tensor = self.network.get_output_embeddings()(hidden_BD)
        if (cap := getattr(self.config, "final_logit_softcapping", None)) is not None:
            logits_BV = cap * torch.tanh(logits_BV / cap)
        return logits_BV.float()

    @torch.inference_mode()
    def _check_head(self) -> None:
        ids_BL = torch.tensor([[0, 1]], device=self.device)
        whole_BV = self.network(input_ids=ids_BL, use_cache=False).logits[:, -1].float()
        parts_BV = self.head(self.base(input_ids=ids_BL, use_cache=False).last_hidden_state[:, -1])
        if not torch.allclose(whole_BV, parts_BV, rtol=1e-2, atol=1e-3):
            raise ValueError(
                f"the head of {self.config.model_type!r} is not known; known: {list(_PLAIN_HEADS)} and plain ones"
            )
