"""Baselines and ceilings, which predictions are scored beside."""

from cell2sen.evaluation.scoring.baselines import cells, contexts  # their definition adds them to the methods

__all__ = ["cells", "contexts"]
