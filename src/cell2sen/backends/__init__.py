"""Engines: one file each, its name is the name that users type. Each has ``load(model, **options) -> Backend``."""
