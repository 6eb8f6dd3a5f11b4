"""Progress of a training: a bar on stderr, held-out measurements in the log."""

from __future__ import annotations

import logging
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

logger = logging.getLogger(__name__)


class Progress(TrainerCallback):
    """Progress bar with the latest training value; log of held-out values.

    Parameters
    ----------
    show
        Show the bar.
    measure
        ``"loss"`` or ``"reward"``.
    """

    def __init__(self, show: bool, measure: str = "loss") -> None:
        self.show = show
        self.measure = measure
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar."""
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="training", unit=" steps", disable=not self.show
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance the bar."""
        self.bar.update(state.global_step - self.bar.n if self.show else 0)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show a training value, or log a held-out value."""
        logs = logs or {}
        if (held_out := f"eval_{self.measure}") in logs:
            logger.info("step %d: %s on held-out cells %.4f", state.global_step, self.measure, logs[held_out])
        elif self.measure in logs:
            self.bar.set_postfix_str(f"{self.measure} {logs[self.measure]:.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self.bar.close()
