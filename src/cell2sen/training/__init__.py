"""Training: fine-tuning, reinforcement learning and training from scratch."""

from cell2sen.training.adapt import adapt
from cell2sen.training.adaptation.settings import Adaptation
from cell2sen.training.config.grpo import Grpo
from cell2sen.training.config.model import GeneTokens, Lora, Scratch
from cell2sen.training.config.settings import TrainConfig
from cell2sen.training.config.training_file import from_mapping, read_config
from cell2sen.training.reference import fine_tune
from cell2sen.training.rewards import REWARDS
from cell2sen.training.train import can_resume, train

__all__ = [
    "REWARDS",
    "Adaptation",
    "GeneTokens",
    "Grpo",
    "Lora",
    "Scratch",
    "TrainConfig",
    "adapt",
    "can_resume",
    "fine_tune",
    "from_mapping",
    "read_config",
    "train",
]
