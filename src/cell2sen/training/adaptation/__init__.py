"""Adaptation of a model to unlabelled cells: next gene, and two views of one cell."""
