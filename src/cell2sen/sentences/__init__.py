"""Expression to cell sentences and back."""
