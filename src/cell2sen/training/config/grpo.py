"""Settings of reinforcement learning: rewards, sampled answers, the GRPO loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cell2sen.training.rewards import REWARDS


@dataclass(frozen=True, kw_only=True)
class RewardGenes:
    """Genes that rewards compare; by default all genes of the data."""

    gmt: str | None = None
    """GMT file of gene sets, relative to the folder of the data or to the current folder."""

    sets: tuple[str, ...] = ()
    """Names of gene sets in that file; their genes are compared together."""

    symbols: tuple[str, ...] = ()
    """Further genes."""

    def __post_init__(self) -> None:
        if bool(self.gmt) != bool(self.sets):
            raise ValueError("grpo.genes: gmt is a file of gene sets, sets are names in it: give both or none")


@dataclass(frozen=True, kw_only=True)
class SampledAnswers:
    """Answers sampled in a step and at a measurement."""

    prompts: int = 8
    """Prompts per step."""

    per_prompt: int = 8
    """Answers to each prompt; their rewards are compared with each other."""

    temperature: float = 1.0
    guided: bool = True
    """Sample distinct genes of the data, or else free text."""

    max_new_tokens: int = 1024
    """Maximum number of tokens of an answer in free text."""

    held_out: int = 100
    """Held-out prompts at a measurement, with one answer each."""

    def __post_init__(self) -> None:
        if self.per_prompt < 2 or self.prompts < 1:
            raise ValueError(
                "grpo.answers: answers to a prompt are compared with each other: per_prompt must be at least 2, and "
                f"prompts at least 1; found {self.per_prompt} and {self.prompts}"
            )
        if self.temperature <= 0:
            raise ValueError(f"grpo.answers: temperature must be above 0, found {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class Grpo:
    """Reinforcement learning (GRPO): answers with higher rewards than others to the same prompt become more likely.

    For sentence tasks only (``perturb``, ``generate``). ``optimiser.batch_size`` is the number of answers in a backward
    pass, of all processes together.
    """

    rewards: Mapping[str, float] = field(default_factory=lambda: {"kendall_tau": 1.0})
    """Reward → weight in the sum; for rewards see :mod:`cell2sen.training.rewards`."""

    genes: RewardGenes = field(default_factory=RewardGenes)
    answers: SampledAnswers = field(default_factory=SampledAnswers)
    truth: str = "mean"
    """Reference of the rewards: ``"mean"`` of the real cells of the same context and perturbation, or the single real
    ``"cell"`` of the prompt."""

    iterations: int = 1
    """Steps taken with the same answers."""

    clip: float = 0.2
    """Range of the clipped probability ratio of a token, 1 ± `clip`."""

    beta: float = 0.0
    """Weight of the KL divergence from the model before this training; 0 needs no second model in memory."""

    def __post_init__(self) -> None:
        if self.truth not in ("mean", "cell"):
            raise ValueError(f"grpo.truth must be 'mean' or 'cell', found {self.truth!r}")
        if unknown := sorted(set(self.rewards) - set(REWARDS)):
            raise ValueError(f"grpo.rewards: unknown rewards {unknown}; available: {list(REWARDS)}")
        if not self.rewards:
            raise ValueError(f"grpo.rewards must name at least one reward; available: {list(REWARDS)}")
