"""Tools for labels: transfer from a reference, votes of clusters, supporting genes, comparison with given labels."""
