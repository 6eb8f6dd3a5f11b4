"""Training examples: cells of files, draws, pairs, references."""
