"""Command line."""

from cell2sen.cli.predict import app, main

__all__ = ["app", "main"]
