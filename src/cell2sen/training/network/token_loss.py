"""Loss of next tokens: mean over samples of the mean cross-entropy of their chosen tokens.

Axes in names: B batch, L length, D hidden size, N tokens with a loss, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch


def draw_tokens(chosen_BL: torch.Tensor, limit: int | None) -> torch.Tensor:
    """Random sample of at most `limit` of the chosen tokens of each row, bool (B, L); all without a limit."""
    if limit is None:
        return chosen_BL
    noise_BL = torch.rand(chosen_BL.shape, device=chosen_BL.device).masked_fill(~chosen_BL, 2.0)
    return chosen_BL & (noise_BL.argsort(dim=1).argsort(dim=1) < limit)


def mean_of_samples(
    causal: Any,
    hidden_BLD: torch.Tensor,
    next_BL: torch.Tensor,
    chosen_BL: torch.Tensor,
    weight_B: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over samples of the mean cross-entropy of their chosen tokens, nats; samples without any are left out.

    `weight_B` multiplies each sample's mean; the sum is still divided by the number of samples.
    """
    logits_NV = capped(causal, causal.get_output_embeddings()(hidden_BLD[chosen_BL]).float())
    loss_N = torch.nn.functional.cross_entropy(logits_NV, next_BL[chosen_BL], reduction="none")
    counts_B = chosen_BL.sum(dim=1)
    rows_N = torch.arange(len(chosen_BL), device=chosen_BL.device).repeat_interleave(counts_B)
    per_sample_B = torch.zeros(len(chosen_BL), device=loss_N.device).index_add(0, rows_N, loss_N)
    present_B = counts_B > 0
    means_B = per_sample_B[present_B] / counts_B[present_B]
    if weight_B is not None:
        means_B = means_B * weight_B[present_B]
    return means_B.sum() / max(1, int(present_B.sum()))


def capped(causal: Any, logits: torch.Tensor) -> torch.Tensor:
    """Logits after the model's final soft-cap, if any."""
    cap = getattr(causal.config, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits
