"""Fine-tuning on a labelled reference, over the genes that it shares with the cells to label."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from cell2sen.data.obs import text_column
from cell2sen.inference.options import Options
from cell2sen.inference.session import model_of
from cell2sen.inference.transfer.labels import REFERENCE_OBS, usable_labels
from cell2sen.inference.transfer.sides import open_sides
from cell2sen.model import Model
from cell2sen.training.config.settings import TrainConfig
from cell2sen.training.config.training_file import from_mapping
from cell2sen.training.train import train

if TYPE_CHECKING:
    from anndata import AnnData

#: Draws of all cells together, and of each cell at least and at most.
_PAIRS, _MIN_DRAWS, _MAX_DRAWS = 20_000, 5, 20

_FILE, _DONOR = "reference.h5ad", "held_out_by"


def fine_tune(
    query: AnnData | str | Path,
    reference: AnnData | str | Path,
    label: str,
    out: str | Path,
    *,
    held_out_by: str | None = None,
    min_cells: int = 3,
    reference_options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Model:
    """Train a model on the labels of a reference, for ``tl.transfer(…, model=out, classifier="model")``.

    The model reads the genes that query and reference share, as it will in the query. A tenth of the cells, or of the
    donors, is held out: its probabilities are calibrated on them.

    Parameters
    ----------
    query, reference, label, held_out_by, min_cells, reference_options
        As for :func:`cell2sen.tl.transfer`. Of the query only the names of its genes are used.
    out
        Directory of the trained model. It must not exist.
    settings
        Groups of a training file that change the training, such as ``{"optimiser": {"max_steps": 500}}``.
    **options
        ``model`` to start from (default: the embedded one); the others as for :func:`cell2sen.tl.transfer`.

    Returns
    -------
    Model
        The trained model.

    Raises
    ------
    FileExistsError
        `out` exists.
    ValueError, KeyError
        As for :func:`cell2sen.tl.transfer`.
    """
    import pandas as pd
    from anndata import AnnData

    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists: choose another folder for the model, or use it as model=")
    start = model_of(options)
    with open_sides(query, reference, options, reference_options) as sides:
        of_reference = sides.reference.obs
        labels = usable_labels(of_reference, label, min_cells)[0]
        values, _ = sides.reference.expression(sides.symbols)
        kept = np.array([text is not None for text in labels]) & sides.reference.has_genes
        obs = pd.DataFrame({label: labels}, index=sides.reference.names)
        if held_out_by is not None:
            obs[_DONOR] = text_column(of_reference, held_out_by, REFERENCE_OBS)
            kept &= obs[_DONOR].notna().to_numpy()
        organism = sorted(set(sides.reference.session.sentences.organism))[0]
        cells = AnnData(values[kept], obs=obs[kept], var=pd.DataFrame(index=list(sides.symbols)))
        cells.uns["organism"] = organism
    with tempfile.TemporaryDirectory() as folder:
        cells.write_h5ad(Path(folder) / _FILE)
        config = _config(len(cells), label, start, organism, held_out_by is not None, settings or {})
        return train(config, out, base=folder, progress=bool(options.get("progress", True)))


def _config(
    n_cells: int, label: str, start: Model, organism: str, by_group: bool, settings: Mapping[str, Any]
) -> TrainConfig:
    draws = min(max(-(-_PAIRS // max(1, n_cells)), _MIN_DRAWS), _MAX_DRAWS)
    entry: dict[str, Any] = {
        "file": _FILE,
        "cell_type": label,
        "tasks": {"annotate": draws},
        "matrix": {"scale": "log1p", "organism": organism},
    }
    if by_group:
        entry["split"] = {"by": _DONOR}
    values: dict[str, Any] = {
        "data": {"files": [entry], "augmentation": {"thin": [0.3, 1.0]}},
        "model": {"start": start.path},
        "card": {"score_cells": 0},
    }
    for group, given in settings.items():
        values[group] = {**values.get(group, {}), **given} if isinstance(given, Mapping) else given
    return from_mapping(values)
