"""Progress of a training on stderr, held-out measurements in the log."""

from __future__ import annotations

import logging
from typing import Any

from transformers import TrainerCallback

from cell2sen.data import progress

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
        self.bar = progress.Progress(state.max_steps, "training", "step", show=self.show, done=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance the bar."""
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show a training value, or log a held-out value."""
        logs = logs or {}
        if (held_out := f"eval_{self.measure}") in logs:
            logger.info("step %d: %s on held-out cells %.4f", state.global_step, self.measure, logs[held_out])
        elif self.measure in logs:
            self.bar.note(f"{self.measure} {logs[self.measure]:.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar; log an early end."""
        self.bar.close()
        if state.global_step < state.max_steps:
            logger.info(
                "stopped after %d of %d steps: %s on held-out cells no longer improves; the best weights are kept",
                state.global_step,
                state.max_steps,
                self.measure,
            )
