"""Make the C allocator reuse freed memory for the next step instead of returning it to the system."""

import ctypes
import sys

# Parameters of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Make glibc reuse a step's buffers for the next step; return whether that took effect (Linux with glibc).

    XLA's CPU buffers are large, and glibc maps each block above 32 MB when allocated and unmaps it when freed. The next
    step then takes a page fault per 4 KB (115,000 a step for MiniLM at B = 32, T = 48, an eighth of the step's CPU
    time). The price is memory: gaps between the buffers of different padded lengths remain, and a run on the demo data
    peaks at 2.06 GB instead of 1.73 GB. The settings apply to the whole process; call this before the first compiled
    function runs.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1))
    return all(mallopt(name, value) == 1 for name, value in settings)
