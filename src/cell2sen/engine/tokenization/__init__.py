"""Prompts to token ids and back."""
