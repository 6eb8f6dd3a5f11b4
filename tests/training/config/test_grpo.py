"""Settings of reinforcement learning: mistakes."""

from __future__ import annotations

import pytest

from cell2sen.training.config.grpo import Grpo, RewardGenes, SampledAnswers


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"unknown rewards \['f1'\]; available: \['kendall_tau'"):
        Grpo(rewards={"f1": 1})
    with pytest.raises(ValueError, match=r"must name at least one reward; available: \['kendall_tau'"):
        Grpo(rewards={})
    with pytest.raises(ValueError, match="truth must be 'mean' or 'cell', found 'all'"):
        Grpo(truth="all")
    with pytest.raises(ValueError, match="per_prompt must be at least 2"):
        SampledAnswers(per_prompt=1)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        SampledAnswers(temperature=0)
    with pytest.raises(ValueError, match="give both or none"):
        RewardGenes(gmt="sets.gmt")
