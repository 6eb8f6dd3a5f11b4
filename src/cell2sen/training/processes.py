"""Processes of one training, as torchrun and accelerate launch start them: their number, and which of them writes."""

from __future__ import annotations

import os


def n_processes() -> int:
    """Number of processes of this training, 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes, calibrates, scores and shows progress; the others only train."""
    return int(os.environ.get("RANK", "0")) == 0


def local_rank() -> int:
    """Number of this process on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def share_of_batch(batch_size: int) -> int:
    """Samples of a batch for each process, so that a training file means the same with any number of them.

    Raises
    ------
    ValueError
        The number of processes does not divide the batch.
    """
    if batch_size % n_processes():
        raise ValueError(
            f"optimiser.batch_size must be a multiple of the {n_processes()} processes, found {batch_size}; set it, or "
            "start fewer"
        )
    return batch_size // n_processes()
