"""Memory that the C library keeps, instead of giving it back and asking for it again with every step of a model."""

from __future__ import annotations

import ctypes
import os

#: Parameters of ``mallopt`` (malloc.h of the GNU C library).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

#: Bytes. A larger piece of memory is asked for, and given back, by itself; so much that is free is kept.
LARGEST, KEPT = 2**30, 2**31 - 1


def keep_memory() -> bool:
    """Let freed memory be used again by this process. Whether that was done.

    A forward pass makes and frees some hundred tensors, and ranking cells some dozen arrays a block. The GNU C library
    gives those of more than 32 MiB back to the system at once, others whenever enough lie free, and the system clears
    each page again before it lends it the next time: measured, a third of the time of a training step, a tenth to a
    quarter of that of an embedding, label or sentence. From here on up to 2 GiB stay with the process. Nothing is done
    where the C library is another one, or where its environment variables (``MALLOC_…``, ``GLIBC_TUNABLES``) say that
    somebody has decided otherwise.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not the GNU C library; TypeError on Windows
        return False
    # Older releases refuse more than 32 MiB, which is still more than they begin with.
    by_itself = mallopt(_MMAP_THRESHOLD, LARGEST) or mallopt(_MMAP_THRESHOLD, 2**25)
    return bool(mallopt(_TRIM_THRESHOLD, KEPT) and by_itself)
