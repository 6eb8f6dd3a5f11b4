"""Processes of one training, as torchrun and accelerate launch start them: their number, and which of them writes."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any


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


def within_wrapper(accelerator: Any, model: Any, loss: Callable[[Any], Any]) -> Any:
    """Result of `loss` for the network inside of `model`, computed within the forward of the wrapper, if there is one.

    Gradients are summed over processes, and weights that FSDP shards are put together, only for what runs within that
    forward.
    """
    whole: Any = accelerator.unwrap_model(model)
    if whole is model and not is_sharded(accelerator):
        return loss(whole)
    forward = whole.forward

    def within(*_: Any, **__: Any) -> Any:
        whole.forward = forward
        return loss(whole)

    whole.forward = within
    return model()


def refuse_sharded(what: str) -> None:
    """Raise a ValueError if accelerate launch was told to shard the weights (FSDP), which `what` does not support."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise ValueError(f"FSDP does not support {what}: leave --use_fsdp out")


def is_sharded(accelerator: Any) -> bool:
    """Whether FSDP shards the weights over the processes."""
    return getattr(accelerator.state, "fsdp_plugin", None) is not None


def blank_copy(network: Any) -> Any:
    """The same network without memory for its weights, which :func:`gathered` puts in."""
    import torch

    empty: dict[int, Any] = {}
    for parameter in network.parameters():
        empty[id(parameter)] = torch.nn.Parameter(parameter.data.to("meta"), requires_grad=parameter.requires_grad)
    for buffer in network.buffers():
        empty[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(network, empty)


def gathered(sharded: Any, blank: Any) -> Any:
    """`blank` with all weights of a sharded network, in the first process; all processes must call this."""
    weights = {}
    for name, weight in sharded.state_dict().items():
        full = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
        if is_main():
            weights[name] = full.cpu()
    if is_main():
        blank.load_state_dict(weights, assign=True)
        blank.tie_weights()
    return blank
