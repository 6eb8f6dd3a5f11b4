"""The soft-caps equal their formula, in place and with gradients."""

from __future__ import annotations

import pytest
import torch

from cell2sen.engine.network.softcap import soft_cap_logits, tanh_of_half_


def test_tanh_of_half_is_as_exact_as_tanh() -> None:
    x = torch.cat([torch.linspace(-60, 60, 1001), torch.tensor([1e-6, -1e-6, 0.0, 1e5, -1e5])])
    torch.testing.assert_close(tanh_of_half_(2 * x), x.double().tanh().float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gradient", [False, True])
def test_logits(dtype: torch.dtype, gradient: bool) -> None:
    logits = (20 * torch.randn(50, generator=torch.Generator().manual_seed(0))).to(dtype)
    expected = 3 * torch.tanh(logits.double() / 3)
    capped = soft_cap_logits(logits.clone().requires_grad_(gradient), 3.0)
    assert capped.dtype == torch.float32
    assert capped.requires_grad is gradient
    torch.testing.assert_close(
        capped.detach().double(), expected, rtol=0.02 if dtype == torch.bfloat16 else 1e-5, atol=0
    )
    assert torch.equal(soft_cap_logits(logits, None), logits.float())
