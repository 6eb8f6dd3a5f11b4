"""Tasks of cells in space."""
