"""Cells in space: neighbourhoods, samples of them, held-out regions."""
