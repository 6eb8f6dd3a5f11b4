"""Parts of the transformers backend: one file per verb of the backend contract."""
