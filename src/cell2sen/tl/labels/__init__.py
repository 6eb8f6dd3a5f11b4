"""Tools for labels: transfer from a reference, votes of clusters, genes that support a label, comparison with given ones."""
