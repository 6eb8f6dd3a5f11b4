"""Engines other than transformers: servers over HTTP, and vLLM."""
