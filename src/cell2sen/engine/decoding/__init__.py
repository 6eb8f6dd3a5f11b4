"""Answers token by token: constraint, drafts, sampling."""
