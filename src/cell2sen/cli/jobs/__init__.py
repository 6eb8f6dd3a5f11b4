"""Commands of everyday jobs: transfer, integrate, screen, export."""
