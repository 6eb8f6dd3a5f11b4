"""Answers of tasks of obs columns: numbers, and several columns at once."""
