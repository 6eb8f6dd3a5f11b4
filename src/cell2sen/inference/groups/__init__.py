"""Verbs on groups: gene sets, and bulk samples as mixtures of cells."""
