"""Novelty: density of a model's training cells, cells that lie outside, and offered labels that fit none."""
