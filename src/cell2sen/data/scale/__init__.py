"""Scale of a matrix: counts, normalised values, logarithms and other transformations."""
