"""Loss of next tokens: a random sample of the chosen tokens, and the mean over samples beside a slow twin."""

from __future__ import annotations

import pytest
import tiny
import torch

from cell2sen.training.network.token_loss import draw_tokens, mean_of_samples


def test_draw_takes_as_many_as_there_are_and_no_others() -> None:
    chosen = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    seen = torch.zeros(chosen.shape)
    for _ in range(200):
        drawn = draw_tokens(chosen, 2)
        assert drawn.sum(1).tolist() == [2, 1, 0]
        seen += drawn
    assert not seen[~chosen].any()
    assert (seen[0, :4] > 70).all()
    assert draw_tokens(chosen, None) is chosen


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
def test_mean_of_samples_is_that_of_its_slow_twin(architecture: str) -> None:
    network = tiny.network(architecture, 50)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(50, (3, 9), generator=generator)
    chosen = torch.rand((3, 8), generator=generator) < 0.5
    chosen[1] = False  # a sample without a loss does not count
    with torch.no_grad():
        hidden = network.base_model(input_ids=ids).last_hidden_state[:, :-1]
        logits = network(input_ids=ids).logits.float().log_softmax(-1)
        each = [
            -torch.stack([logits[row, place, ids[row, place + 1]] for place in chosen[row].nonzero()[:, 0]]).mean()
            for row in (0, 2)
        ]
        found = mean_of_samples(network, hidden, ids[:, 1:], chosen)
    torch.testing.assert_close(found, torch.stack(each).mean(), rtol=1e-5, atol=1e-5)
