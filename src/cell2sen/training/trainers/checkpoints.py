"""Checkpoints that are restored under the names they were written with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cell2sen.training.processes import is_sharded


class Restoring:
    """Mix-in for a transformers trainer that loads all weights of a checkpoint.

    Some architectures are saved under names that differ from those of their modules (GPT-NeoX: ``embed_out`` for the
    head). transformers' trainer skips them, so that the head would keep its present weights.
    """

    model: Any
    state: Any
    args: Any
    accelerator: Any

    def restore_finished(self, folder: Path) -> bool:
        """Load the weights and the state of a finished training; false if its last checkpoint is not the end."""
        from transformers import TrainerState

        checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        if not checkpoints:
            return False
        last = checkpoints[-1]
        state = TrainerState.load_from_json(str(last / "trainer_state.json"))
        control: Any = state.stateful_callbacks.get("TrainerControl") or {}
        stopped = bool(control.get("args", {}).get("should_training_stop"))
        if state.global_step < state.max_steps and not stopped:
            return False
        self.state = state
        self._load_from_checkpoint(str(last))
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()
        return True

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        self._load_all_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()  # type: ignore[misc]
        self._load_all_weights(self.state.best_model_checkpoint)

    def _load_all_weights(self, folder: str) -> None:
        if hasattr(self.model, "peft_config") or is_sharded(self.accelerator):  # no names are changed
            return
        saved = type(self.model).from_pretrained(folder, dtype=self.model.dtype, local_files_only=True)
        self.model.load_state_dict(saved.state_dict())

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no card: the finished model has its own."""
