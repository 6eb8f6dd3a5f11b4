"""Model card: data, settings and held-out scores of a trained model, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cell2sen.data.names.text import some
from cell2sen.inference.annotate import is_calibration
from cell2sen.model import METADATA_FILE
from cell2sen.training.config.settings import TrainConfig
from cell2sen.training.release.directory import update_metadata

CARD_FILE = "README.md"


#: Perturbations that the card lists with their contexts.
_MAX_RESPONSES = 10


def write_card(folder: Path, config: TrainConfig, state: Any, scores: Sequence[Mapping[str, Any]], table: str) -> None:
    """Write the model card, and the scores into the model's metadata.

    Parameters
    ----------
    state
        ``state`` of the trainer.
    scores, table
        Scores on held-out cells, and their Markdown table.
    """
    metadata = update_metadata(folder, {"scores": list(scores)})
    (folder / CARD_FILE).write_text(card(metadata, config, state, table), encoding="utf-8")


def card(metadata: Mapping[str, Any], config: TrainConfig, state: Any, table: str) -> str:
    """Text of the model card, Markdown."""
    return f"""# Model card

{config.card.text}

Trained with `cell2sen train`. All settings are in `{METADATA_FILE}` beside this card.

## Data

{_data(metadata)}

## Settings

{_settings(metadata, config, state)}

## Scores on held-out cells

{table}

Baselines and ceiling are those of `cell2sen evaluate`. Baselines use the training cells.

* {_training_measure(config, state)}
* {_calibration(metadata)}
* {_responses(metadata)}

## Limits

Predictions are for cells like the training cells, and for the labels and perturbations above. For others they are a
guess. This model is not a medical device.
"""


def _data(metadata: Mapping[str, Any]) -> str:
    rows = [f"| {file} | {split['n_train']} | {split['n_held_out']} |" for file, split in metadata["split"].items()]
    lists = [
        f"* Labels: {', '.join(metadata['labels']) or 'none'}",
        *[f"* {column}: {', '.join(names)}" for column, names in metadata.get("label_columns", {}).items()],
        *[
            f"* {column}: {min(bins['values']):g} to {max(bins['values']):g} in {len(bins['values'])} bins"
            for column, bins in metadata.get("number_columns", {}).items()
        ],
        *([f"* In prompts: {', '.join(metadata['context'])}"] if metadata.get("context") else []),
        f"* Perturbations: {', '.join(metadata['perturbations']) or 'none'}",
        f"* Organisms: {', '.join(metadata['organisms'])}",
    ]
    return "\n".join(["| file | training cells or sets | held out |", "| --- | --- | --- |", *rows, "", *lists])


def _settings(metadata: Mapping[str, Any], config: TrainConfig, state: Any) -> str:
    origin = metadata["started_from"]
    method = "reinforcement learning (GRPO)" if config.grpo else "prompt/completion pairs"
    tasks = ", ".join(config.data.tasks) or f"those of the corpus {Path(str(config.data.corpus)).name}"
    lengths = ", ".join(f"{name} {n}" for name, n in sorted(metadata["lengths"].items()))
    rate = "default" if config.optimiser.learning_rate is None else f"{config.optimiser.learning_rate:g}"
    lines = [
        f"* Started from: {origin['name'] if origin else 'random weights'}; trained: {_trained_part(config)}",
        f"* Method: {method}; tasks: {tasks}",
        f"* Genes per sentence: {lengths}",
        f"* Steps: {state.global_step}; batch size {state.train_batch_size}; learning rate {rate}; seed {config.seed}",
    ]
    return "\n".join(lines)


def _trained_part(config: TrainConfig) -> str:
    shape, lora = config.model.from_scratch, config.model.lora
    if shape:
        return f"{shape.layers} layers, hidden size {shape.hidden_size}, {shape.heads} heads"
    part = "all weights" if lora is None else f"adapters of rank {lora.r}, merged into the weights"
    return f"{part}, and new tokens for genes" if config.model.gene_tokens else part


def _training_measure(config: TrainConfig, state: Any) -> str:
    if config.grpo:
        weights = config.grpo.rewards.items()
        total = " + ".join(name if weight == 1 else f"{weight:g} × {name}" for name, weight in weights)
        key, name, best = "eval_reward", f"Reward on held-out cells ({total})", max
    else:
        key, name, best = "eval_loss", "Loss on held-out pairs (nats per label, or per token of a sentence)", min
    values = [entry[key] for entry in state.log_history if key in entry]
    if not values:
        return f"{name}: not measured"
    return f"{name}: first {values[0]:.3f}, best {best(values):.3f}, last {values[-1]:.3f}"


def _calibration(metadata: Mapping[str, Any]) -> str:
    calibration = metadata.get("calibration") or {}
    if not calibration:
        return "Label probabilities are not calibrated"
    return "\n* ".join(_calibration_of(name, fit) for name, fit in calibration.items())


def _calibration_of(name: str, fit: Mapping[str, Any]) -> str:
    what = "Label probabilities" if name == "annotate" else f"Probabilities of {name}"
    cells, temperature = f"{fit['n_cells']} held-out cells", f"temperature {fit['temperature']:.2f}"
    if is_calibration(fit):
        return f"{what} are calibrated on {cells}, {temperature}"
    return f"{what} are not calibrated: {temperature} was fitted on {cells}, too few or at a limit of the search"


def _responses(metadata: Mapping[str, Any]) -> str:
    responses = metadata.get("responses") or {}
    if not responses:
        return "No response was measured in the training cells"
    first = list(responses.items())[:_MAX_RESPONSES]
    each = "; ".join(
        f"{name} in {len(of['contexts'])} contexts ({some(list(of['contexts']))}), model's share {of['model_share']:g}"
        for name, of in first
    )
    more = f"; and {len(responses) - len(first)} more" if len(responses) > len(first) else ""
    return f"Responses are predicted from those measured in similar training cells: {each}{more}"
