"""Configuration of a training run, and its YAML file."""
