"""What the transformers backend is made of: one file per verb of the backend contract."""
