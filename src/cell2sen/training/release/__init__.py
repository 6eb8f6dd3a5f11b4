"""What a finished training writes beside its weights."""
