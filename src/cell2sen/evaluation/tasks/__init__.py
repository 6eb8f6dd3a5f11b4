"""Scores of tasks other than labels and cells: texts, numbers, gene sets, profiles among cells, cells in space."""
