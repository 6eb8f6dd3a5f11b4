"""Virtual Cell Challenge: Arc's cell-eval2, and submissions."""
