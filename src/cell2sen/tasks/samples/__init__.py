"""Tasks of samples: several cells of one donor and tissue."""
