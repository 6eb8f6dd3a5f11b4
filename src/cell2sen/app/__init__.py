"""Page to look at cells: what it shows of a file, without a model."""
