"""Freed memory is used again without the system having to clear it, unless somebody has decided otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

#: Page faults of the second half of 20 arrays of 48 MB, which are more than the C library keeps by itself.
FAULTS = """
import resource, numpy as np
from cell2sen.engine.network.allocator import keep_memory
print(keep_memory())
for number in range(20):
    if number == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(6_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(**environment: str) -> tuple[str, int]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env={**kept, **environment}, capture_output=True, text=True, check=True
    )
    said, faults = done.stdout.split()
    return said, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.slow
def test_freed_memory_is_used_again() -> None:
    assert run()[0] == "True"
    said, cleared = run(MALLOC_ARENA_MAX="4")
    assert said == "False"
    assert run()[1] < cleared / 10


def test_without_the_gnu_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from cell2sen.engine.network import allocator

    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert allocator.keep_memory() is False
