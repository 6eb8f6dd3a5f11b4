"""Whole-number counts of predicted cells, made from measured cells."""
