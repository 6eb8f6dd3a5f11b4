"""Training: fine-tuning, reinforcement learning and training from scratch."""

from cell2sen.training.config import Grpo, Lora, Scratch, TrainConfig, from_mapping, read_config
from cell2sen.training.rewards import REWARDS
from cell2sen.training.train import can_resume, train

__all__ = [
    "REWARDS",
    "Grpo",
    "Lora",
    "Scratch",
    "TrainConfig",
    "can_resume",
    "from_mapping",
    "read_config",
    "train",
]
