"""Cells in space: questions, pooled labels, generated neighbours."""
