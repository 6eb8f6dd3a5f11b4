"""AnnData in, files out."""
