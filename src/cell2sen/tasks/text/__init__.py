"""Tasks with free text as answer."""
