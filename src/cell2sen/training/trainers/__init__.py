"""trl trainers."""
