"""Samples of several cells: labels of each cell, and new samples."""
