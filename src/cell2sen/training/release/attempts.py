"""Attempts: last steps of a training whose failure must not cost the model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cell2sen.inference.responses.known_responses import RESPONSE_FILE
from cell2sen.training.release.directory import update_metadata

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Attempts:
    """Steps on a complete model directory. Errors are logged, and recorded in its metadata under ``failed``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: Step → error.
        self.failed: dict[str, str] = {}

    def run(self, step: str, function: Callable[[], Result]) -> Result | None:
        """Result of a step, or ``None`` after an error. A full disk is raised: the model itself may be incomplete."""
        try:
            return function()
        except Exception as error:
            if type(error) is OSError:
                raise
            self.failed[step] = f"{type(error).__name__}: {error}"
            logger.warning(
                "the model is complete, but without its %s: %s. The same training with --resume tries it again",
                step,
                self.failed[step],
                exc_info=logger.isEnabledFor(logging.DEBUG),
            )
            return None

    def record(self) -> None:
        """Write the errors into the metadata, and remove what a failed step left."""
        if "responses" in self.failed:
            (self.folder / RESPONSE_FILE).unlink(missing_ok=True)
        if self.failed:
            removed = [key for key in ("calibration", "responses") if key in self.failed]
            update_metadata(self.folder, {"failed": self.failed}, remove=removed)
