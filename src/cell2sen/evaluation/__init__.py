"""Predictions beside real cells, baselines and ceilings."""
