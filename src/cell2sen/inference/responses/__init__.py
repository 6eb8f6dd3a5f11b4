"""Responses to perturbations: measured in training cells, expected by a model, written as sentences."""
