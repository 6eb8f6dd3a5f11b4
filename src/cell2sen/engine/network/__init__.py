"""The network: attention, key-value cache, batches, processor settings."""
