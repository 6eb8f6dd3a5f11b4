"""Files that hold a matrix: recognised by their content, opened as AnnData."""
