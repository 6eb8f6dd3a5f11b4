"""Transfer of labels from a reference: shared genes, classifiers, cells unlike the reference, votes of clusters."""
