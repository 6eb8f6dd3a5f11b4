"""The directory of a trained model: weights, tokenizer, metadata, split, log and card."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cell2sen.data.splits import sha256_of_names
from cell2sen.engine.tokenization.tokenizer import Tokens, load_tokens
from cell2sen.inference.templates import as_mapping
from cell2sen.model import METADATA_FILE, Model
from cell2sen.sentences.ranking import RankFitter, Recipe
from cell2sen.task import Task
from cell2sen.training.cells import Cells
from cell2sen.training.config import TrainConfig, plain

#: Names of the cells on either side of the split, beside the weights: ``{file: [names]}``.
TRAINED_ON_FILE, HELD_OUT_FILE = "trained_on.json", "held_out.json"


def metadata_of(
    config: TrainConfig, cells: Mapping[str, Cells], worded: Mapping[str, Task], lengths: Mapping[str, int],
    genes: tuple[str, ...] | None, start: Model | None,
) -> dict[str, Any]:  # fmt: skip
    """What ``cell2sen.json`` says. A fine-tuned model keeps what it knew, unless this training says otherwise."""
    before: Mapping[str, Any] = start.metadata if start else {}
    fitter = RankFitter()
    counts: dict[str, dict[str, int]] = {"labels": {}, "perturbations": {}}
    for one in cells.values():
        one.add_to(fitter, np.flatnonzero(~one.test)[:1024])
        answered = {worded[task].target for task in one.data.tasks}
        learned = {slot for task in one.data.tasks for slot in (*worded[task].slots, worded[task].target)}
        for store, slot, column in (
            ("labels", "cell_type", one.label), ("perturbations", "perturbation", one.perturbation)
        ):  # fmt: skip
            if slot not in learned:
                continue
            for value in column[~one.test] if column is not None else ():
                if value is not None and (slot in answered or store == "labels" or value != one.data.control):
                    counts[store][str(value)] = counts[store].get(str(value), 0) + 1
    fit = fitter.fit()
    recipe = start.recipe if start else Recipe(max_genes=config.lengths.get("annotate"), case="upper")
    if recipe.max_genes is not None:  # a limit that is shorter than what is learned now would cut it at inference
        recipe = dataclasses.replace(recipe, max_genes=max(recipe.max_genes, *lengths.values()))
    metadata: dict[str, Any] = {
        "recipe": dataclasses.asdict(recipe),
        "lengths": {**before.get("lengths", {}), **lengths},
        "dtype": "float32" if start is None else start.resolved_dtype,
        "stop": list(start.stop) if start else [],
        "templates": {**before.get("templates", {}), **{name: as_mapping(task) for name, task in worded.items()}},
        "fit": dataclasses.asdict(fit) if fit else before.get("fit"),
        "genes": list(genes) if genes else None,
        # A closed set: what was learned last, not mixed with what the model knew before.
        "labels": dict(sorted(counts["labels"].items())) or before.get("labels", {}),
        "spellings": {**before.get("spellings", {}), **spellings(config)},
        "perturbations": {**before.get("perturbations", {}), **dict(sorted(counts["perturbations"].items()))},
        "no_perturbation": next(
            (one.data.no_perturbation for one in cells.values() if one.data.no_perturbation),
            before.get("no_perturbation"),
        ),
        "organisms": sorted({*before.get("organisms", []), *(name for one in cells.values() for name in one.organism)}),
        # The name of a directory: where it lay is nobody's business.
        "training": plain(config) | {"model": Path(start.path).name if start and start.is_local else config.model},
        "split": {file: split_of(one) for file, one in cells.items()},
        "started_from": None,
    }
    if start is not None:
        history = {key: before[key] for key in ("labels", "split", "training", "started_from") if before.get(key)}
        metadata["started_from"] = {**start.provenance(), **history}
    return metadata


def spellings(config: TrainConfig) -> dict[str, list[str]]:
    """Label → its other spellings and broader names, see :func:`cell2sen.inference.annotate.trained_labels`."""
    names = {label: list(others) for label, others in config.labels.items()}
    for name, covered in config.broader.items():
        for label in covered:
            names.setdefault(label, []).append(name)
    return names


def split_of(cells: Cells) -> dict[str, Any]:
    """How many cells are on either side, and a hash of the names of those held out."""
    names = [name for name, test in zip(cells.names, cells.test, strict=True) if test]
    return {"n_train": int(np.sum(~cells.test)), "n_held_out": len(names), "sha256_of_held_out": sha256_of_names(names)}


@contextlib.contextmanager
def complete(out: Path) -> Iterator[Path]:
    """A temporary directory that takes the name `out` if the block ends without an error, and vanishes otherwise."""
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in temporary.rglob("*"):  # safetensors writes files that only their owner may read
            file.chmod(0o755 if file.is_dir() else 0o644)
        temporary.replace(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write(
    folder: Path, network: Any, tokenizer: Any, metadata: dict[str, Any], config: TrainConfig,
    cells: Mapping[str, Cells], state: Any,
) -> None:  # fmt: skip
    """Write everything into `folder`. `state` is that of the trainer."""
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    def dump(name: str, content: Any) -> None:
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")

    finite = [
        {key: v for key, v in entry.items() if not isinstance(v, float) or math.isfinite(v)}
        for entry in state.log_history
    ]
    dump("training_log.json", finite)
    if config.names:
        for name, side in ((TRAINED_ON_FILE, False), (HELD_OUT_FILE, True)):
            chosen = {file: np.asarray(one.names, dtype=object)[one.test == side] for file, one in cells.items()}
            dump(name, {file: list(names) for file, names in chosen.items()})
    metadata["weights_sha256"] = hash_of_weights(folder)
    dump(METADATA_FILE, metadata)


def write_card(
    folder: Path, config: TrainConfig, state: Any, measured: Sequence[Mapping[str, Any]], table: str
) -> None:  # fmt: skip
    """Write the model card, and into the metadata what was measured for it."""
    file = folder / METADATA_FILE
    metadata = json.loads(file.read_text(encoding="utf-8")) | {"scores": list(measured)}
    file.write_text(json.dumps(metadata, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "README.md").write_text(_card(metadata, config, state, table), encoding="utf-8")


def hash_of_weights(folder: Path) -> str:
    """SHA-256 over the safetensors files of a model directory, 16 hex digits."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            while block := stream.read(2**24):
                digest.update(block)
    return digest.hexdigest()[:16]


def check_tokenizer(folder: Path, tokens: Tokens, texts: Sequence[str]) -> None:
    """The tokenizer that was written must read texts as they were trained."""
    written = load_tokens(str(folder), local_files_only=True)
    if written.ids(texts) != tokens.ids(texts) or (written.bos, written.eos) != (tokens.bos, tokens.eos):
        raise RuntimeError("the tokenizer that was saved reads text otherwise than the one that was trained with")


def _card(metadata: Mapping[str, Any], config: TrainConfig, state: Any, table: str) -> str:
    rows = "\n".join(
        f"| {file} | {split['n_train']} | {split['n_held_out']} |" for file, split in metadata["split"].items()
    )
    key, what = "eval_loss", "Loss on held-out pairs (nats per token of the answer)"
    if config.grpo:
        key, what = "eval_reward", f"Reward on held-out cells ({_sum(config.grpo.rewards)})"
    values = [entry[key] for entry in state.log_history if key in entry]
    best = (max if config.grpo else min)(values, default=0.0)
    measured = f"first {values[0]:.3f}, best {best:.3f}, last {values[-1]:.3f}" if values else "not measured"
    kind = "all weights" if config.lora is None else f"adapters of rank {config.lora.r}, merged into the weights"
    origin = metadata["started_from"]
    if config.from_scratch:
        shape = config.from_scratch
        kind = f"{shape.layers} layers, hidden size {shape.hidden_size}, {shape.heads} heads"
    if config.gene_tokens:
        kind += ", and new tokens for genes"
    how = "reinforcement learning (GRPO)" if config.grpo else "pairs of prompt and answer"
    rate = "default" if config.learning_rate is None else f"{config.learning_rate:g}"
    calibration = metadata.get("calibration", {}).get("annotate")
    calibrated = (
        f"probabilities of labels calibrated on {calibration['n_cells']} held-out cells, temperature "
        f"{calibration['temperature']:.2f}" if calibration else "probabilities of labels are not calibrated"
    )  # fmt: skip
    corrections = metadata.get("corrections") or {}
    added = ", ".join(
        f"{name} (share {one['share']:.2f}, {one['contexts']} contexts)" for name, one in corrections.items()
    )
    corrected = (
        f"expected responses get what they missed on average in the training cells added: {added}" if corrections
        else "expected responses are not corrected"
    )  # fmt: skip
    return f"""# Model card

{config.card}

Trained by `cell2sen train`; `{METADATA_FILE}` beside this card holds every setting.

## Data

| file | cells trained on | cells held out |
| --- | --- | --- |
{rows}

* Labels: {", ".join(metadata["labels"]) or "none"}
* Perturbations: {", ".join(metadata["perturbations"]) or "none"}
* Organisms: {", ".join(metadata["organisms"])}

## Settings

* Started from: {origin["name"] if origin else "nothing, trained from scratch"}; trained: {kind}
* Learned from {how}; tasks: {", ".join(sorted({name for data in config.data for name in data.tasks}))}
* Genes of a sentence: {", ".join(f"{name} {n}" for name, n in sorted(metadata["lengths"].items()))}
* Steps: {state.global_step}; batch size {state.train_batch_size}; learning rate {rate}; seed {config.seed}

## Measured on held-out cells

{table}

Baselines and ceiling are those of `cell2sen evaluate`; they learn from the cells trained on.

* {what}: {measured}
* {calibrated[0].upper()}{calibrated[1:]}
* {corrected[0].upper()}{corrected[1:]}

## Limits

It answers for cells like those that it was trained on, and for the labels and perturbations above; what it says about
others is a guess. It is no medical device.
"""


def _sum(weights: Mapping[str, float]) -> str:
    return " + ".join(name if weight == 1 else f"{weight:g} × {name}" for name, weight in weights.items())
