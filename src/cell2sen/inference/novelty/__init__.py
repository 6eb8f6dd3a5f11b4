"""Novelty: gene space of a model's training cells, their density in it, and cells that lie outside."""
