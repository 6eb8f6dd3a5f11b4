"""Cell sentences for language models on single cells: the public names."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cell2sen import atlas, pl, tl
    from cell2sen.app.widget import view
    from cell2sen.backend import Sampling, Unsupported
    from cell2sen.evaluation.cell_eval import cell_eval
    from cell2sen.evaluation.challenge.cell_eval2 import cell_eval2
    from cell2sen.evaluation.evaluate import evaluate
    from cell2sen.helical import Cell2Sen, Cell2SenConfig
    from cell2sen.inference.check import check
    from cell2sen.model import Model
    from cell2sen.sentences.rank_fit import RankFit
    from cell2sen.sentences.ranking import Recipe
    from cell2sen.sentences.sentences import Sentences
    from cell2sen.task import Task
    from cell2sen.training.adapt import adapt
    from cell2sen.training.train import train

try:
    __version__ = importlib.metadata.version("cell2sen")  # of the tag that was built
except importlib.metadata.PackageNotFoundError:  # sources that were never installed
    __version__ = "0+unknown"

__all__ = [
    "Cell2Sen",
    "Cell2SenConfig",
    "Model",
    "RankFit",
    "Recipe",
    "Sampling",
    "Sentences",
    "Task",
    "Unsupported",
    "__version__",
    "adapt",
    "atlas",
    "cell_eval",
    "cell_eval2",
    "check",
    "evaluate",
    "pl",
    "tl",
    "train",
    "view",
]

#: Module of each public name, imported at first use: `import cell2sen` alone imports neither torch nor anndata.
_HOME = {
    "Cell2Sen": "helical",
    "Cell2SenConfig": "helical",
    "Model": "model",
    "RankFit": "sentences.rank_fit",
    "Recipe": "sentences.ranking",
    "Sampling": "backend",
    "Sentences": "sentences.sentences",
    "Task": "task",
    "Unsupported": "backend",
    "adapt": "training.adapt",
    "cell_eval": "evaluation.cell_eval",
    "cell_eval2": "evaluation.challenge.cell_eval2",
    "check": "inference.check",
    "evaluate": "evaluation.evaluate",
    "train": "training.train",
    "view": "app.widget",
}
_MODULES = ("atlas", "pl", "tl")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"cell2sen.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"cell2sen.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'cell2sen' has no attribute {name!r}; available: {__all__}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
