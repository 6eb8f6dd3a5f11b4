"""Checkpoints as files: download, copies, conversion from GGUF, hashes under lock, table of sizes."""

from cell2sen.checkpoints.fetch import fetch
from cell2sen.checkpoints.lock import Lock, lock, verify

__all__ = ["Lock", "fetch", "lock", "verify"]
