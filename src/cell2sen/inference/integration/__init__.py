"""Integration of batches: Harmony on embeddings, then neighbours, UMAP and Leiden of scanpy."""
