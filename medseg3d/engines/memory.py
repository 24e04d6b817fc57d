"""How the C library gives memory back, which decides a third of a network's time on a CPU."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

__all__ = ["keep_freed_memory"]

# mallopt's parameters, from glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
LARGEST = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for its next allocation; return whether that could be arranged.

    Every activation of a 3D network is larger than the size from which glibc maps fresh pages for each allocation and
    unmaps them when it is freed, so that the kernel clears gigabytes in every iteration. Without that a training step
    takes about 0.63 of the time (``scripts/benchmarks/bench_allocator.py``). The process then holds its peak
    memory until it ends. Does nothing where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(*option) for option in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, LARGEST), (M_TOP_PAD, 2**28)))
