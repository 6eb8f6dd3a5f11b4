"""Screens in silico: perturbations, edits of the sentence or measured groups, and their shift towards a goal."""
