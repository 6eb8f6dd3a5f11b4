"""Checkpoints that are restored under the names they were written with."""

from __future__ import annotations

from typing import Any


class Restoring:
    """Mix-in for a transformers trainer that loads all weights of a checkpoint.

    Some architectures are saved under names that differ from those of their modules (GPT-NeoX: ``embed_out`` for the
    head). transformers' trainer skips them, so that the head would keep its present weights.
    """

    model: Any
    state: Any

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        self._load_all_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()  # type: ignore[misc]
        self._load_all_weights(self.state.best_model_checkpoint)

    def _load_all_weights(self, folder: str) -> None:
        if hasattr(self.model, "peft_config"):  # names of adapters are not changed
            return
        saved = type(self.model).from_pretrained(folder, dtype=self.model.dtype, local_files_only=True)
        self.model.load_state_dict(saved.state_dict())

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no card: the finished model has its own."""
