"""Directory of an adapted model: weights, metadata and card; what no longer holds is removed or fitted anew."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from cell2sen import tasks
from cell2sen.inference.gene_part import GENE_PART_FILE, Scaling
from cell2sen.inference.novelty.training_density import DENSITY_FILE
from cell2sen.inference.responses.known_responses import RESPONSE_FILE
from cell2sen.inference.session import load_model
from cell2sen.inference.templates import as_mapping, choose_templates
from cell2sen.model import METADATA_FILE, TRAINED_ON_HASHES, Model, resolve
from cell2sen.sentences.gene_space import rank_weights
from cell2sen.training.adaptation.loop import Steps
from cell2sen.training.adaptation.settings import Adaptation
from cell2sen.training.adaptation.unlabelled_cells import UnlabelledCells
from cell2sen.training.config.data import Augmentation
from cell2sen.training.network.loading import TrainableModel
from cell2sen.training.release import directory
from cell2sen.training.release.fit_density import DensityCells
from cell2sen.training.release.fit_gene_part import gene_part_of, network_vectors
from cell2sen.training.release.model_card import CARD_FILE

logger = logging.getLogger(__name__)

#: Files that describe the cells whose labels were learned, which stay what they were.
KEPT_FILES = (directory.TRAINED_ON_FILE, directory.HELD_OUT_FILE, TRAINED_ON_HASHES, DENSITY_FILE)

#: Keys of the metadata that are of the weights before, and no longer true.
DROPPED_KEYS = ("scores", "failed", "averaged", "weights_sha256")

#: Maximum number of cells that the gene part is fitted to.
MAX_GENE_PART_CELLS = 4000


def write_adapted(
    folder: Path,
    model: TrainableModel,
    cells: UnlabelledCells,
    settings: Adaptation,
    done: Steps,
    minutes: float | None,
) -> None:
    """Write the complete directory of an adapted model.

    Parameters
    ----------
    model
        The adapted network, without adapters, with the model that it started from.
    minutes
        Time that the number of steps was found from; ``None`` for a given number.
    """
    start = model.start
    assert start is not None
    record = {
        "file": cells.data.file,
        "n_cells": cells.n_cells,
        "n_train": int((~cells.test).sum()),
        "n_held_out": int(cells.test.sum()),
        "organisms": sorted(set(map(str, cells.organism))),
        "steps": done.steps,
        "minutes": minutes,
        "settings": dataclasses.asdict(settings),
        "losses": {"before": done.before.record(), "after": done.after.record()},
    }
    metadata = adapted_metadata(start, cells, record)
    directory.write(folder, model.network, model.tokenizer, metadata, {}, done.log)
    for name in (directory.TRAINED_ON_FILE, directory.HELD_OUT_FILE):
        (folder / name).unlink()
    kept = [*KEPT_FILES, *([RESPONSE_FILE] if metadata.get("responses") else [])]
    for name in kept if start.is_local else ():
        if (source := Path(start.path) / name).is_file():
            shutil.copyfile(source, folder / name)
    directory.check_tokenizer(folder, model.tokens, [" ".join(cells.symbols[:200])])
    if settings.gene_part:
        fit_own_gene_part(folder, cells, settings)
    (folder / CARD_FILE).write_text(card(metadata, has_gene_part=(folder / GENE_PART_FILE).is_file()), encoding="utf-8")


def adapted_metadata(start: Model, cells: UnlabelledCells, record: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of the starting model with what the adaptation changed.

    Labels, their split and the training they come from are those of `start`. Temperatures stay, but no longer count as
    calibrated; scores are removed, and responses that the network takes part in.
    """
    metadata = {key: value for key, value in start.metadata.items() if key not in DROPPED_KEYS}
    if not metadata.get("templates") and start.wording != "cell2sen":
        metadata["templates"] = {
            name: as_mapping(choose_templates(tasks.load(name), start)) for name in ("embed", "annotate")
        }
    fit = cells.rank_fit()
    metadata |= {
        "recipe": dataclasses.asdict(start.recipe),
        "dtype": start.resolved_dtype,
        "stop": list(start.stop),
        "fit": metadata.get("fit") or (dataclasses.asdict(fit) if fit else None),
        "adaptation": dict(record),
    }
    if calibration := metadata.get("calibration"):
        metadata["calibration"] = {
            task: {"temperature": fitted["temperature"], "n_cells": 0} for task, fitted in calibration.items()
        }
    responses = metadata.get("responses") or {}
    if any(response.get("model_share") for response in responses.values()):
        logger.warning("%s was part of its %d responses, which are left out", start.name, len(responses))
        del metadata["responses"]
    before = start.metadata.get("started_from")
    metadata["started_from"] = start.provenance() | ({"started_from": before} if before else {})
    return metadata


def fit_own_gene_part(folder: Path, cells: UnlabelledCells, settings: Adaptation) -> None:
    """Fit the gene part to the cells, and write it into the model's directory."""
    generator = np.random.default_rng(settings.seed)
    rows = np.sort(generator.permutation(np.flatnonzero(~cells.test))[:MAX_GENE_PART_CELLS])
    part = cells.chosen(rows)
    weights = sp.csr_matrix(rank_weights(part.sentences(0, Augmentation(), settings.seed), part.symbols))
    fitted = DensityCells(
        weights=weights,
        groups=np.full(len(rows), "cells", dtype=str),
        test=np.zeros(len(rows), dtype=bool),
        as_measured=np.ones(len(rows), dtype=bool),
    )
    backend = load_model({"model": resolve(folder), "progress": False})
    scaling = Scaling.of(network_vectors(cells, backend, settings.seed))
    gene_part_of(fitted, part.symbols, settings.gene_part, scaling, seed=settings.seed).write(folder)


def card(metadata: Mapping[str, Any], *, has_gene_part: bool) -> str:
    """Text of the model card, Markdown."""
    record, origin = metadata["adaptation"], metadata["started_from"]
    settings, before, after = record["settings"], record["losses"]["before"], record["losses"]["after"]
    minutes = "given" if record["minutes"] is None else f"as many as fit into {record['minutes']:g} minutes"
    labels = ", ".join(metadata.get("labels") or {}) or "none"
    gene_part = (
        "fitted to the cells below, so distances are not comparable with those of other models"
        if has_gene_part
        else "none"
    )
    lines = [
        f"| started from | `{origin['name']}`, weights `{origin['weights_sha256'] or 'not known'}` |",
        f"| cells | {record['file']}: {record['n_cells']}, of which {record['n_train']} trained on, "
        f"{record['n_held_out']} held out |",
        f"| organisms | {', '.join(record['organisms'])} |",
        f"| steps | {record['steps']} ({minutes}), {settings['batch_size']} cells in two views each; "
        f"seed {settings['seed']} |",
        f"| weights of the losses | next gene {settings['next_gene']:g}, two views {settings['two_views']:g} "
        f"(temperature {settings['temperature']:g}) |",
        f"| gene part of embeddings | {gene_part} |",
    ]
    return f"""# Model card

`{origin["name"]}`, adapted with `cell2sen train --adapt` to unlabelled cells. All settings are in `{METADATA_FILE}`
beside this card.

| | |
| --- | --- |
{chr(10).join(lines)}

| loss of held-out cells, nats | before | after |
| --- | --- | --- |
| next gene of the cell's own sentence | {before["next_gene"]:.3f} | {after["next_gene"]:.3f} |
| two views of one cell | {before["two_views"]:.3f} | {after["two_views"]:.3f} |

## Limits

* It was adapted for embeddings of these cells. Whether they are better than principal components of the same cells
  is not known from the losses: compare both where labels are known.
* Labels ({labels}) are those of the starting model, and the adaptation saw none. Their probabilities are no longer
  calibrated, and scores of the starting model do not hold.
* How unlike a cell is to training cells is still measured by the cells whose labels were learned, not by these.
* This model is not a medical device.
"""
