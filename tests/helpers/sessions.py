"""Sessions of small data and models without weights."""

from __future__ import annotations

from typing import Any

from cells import cells, fake
from datasets import Dataset

from cell2sen.inference.session import Session, start
from cell2sen.sentences.sentences import Sentences


def begin(task: str = "embed", data: Any = None, **options: Any) -> Session:
    """A session over `data`, six cells by default, with the model of :func:`cells.fake`."""
    merged: Any = {"model": fake(), "progress": False, **options}
    return start(cells() if data is None else data, task, merged)


def sentences_of(*texts: str) -> Sentences:
    """Sentences of a dataset with these texts."""
    return Sentences.from_dataset(Dataset.from_dict({"cell_sentence": list(texts)}))
