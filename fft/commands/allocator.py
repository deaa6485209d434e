"""The C allocator, told to keep freed memory for the next step in place of handing it back to the system."""

import ctypes
import sys

# mallopt's parameters, from malloc.h of glibc.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Let glibc reuse a step's buffers for the next step; True where it took effect (Linux with glibc).

    XLA's buffers on CPU are large, and glibc maps a block of more than 32 MB anew each time and unmaps it when freed:
    the next step then takes a page fault for every 4 KB (115,000 a step for MiniLM at B = 32, T = 48, an eighth of
    the step's CPU time). The price is memory: holes between the buffers of different padded lengths stay, and a run
    on the demo data peaks at 2.06 GB where mapping blocks anew takes 1.73 GB. The settings hold for the whole
    process; call it before the first compiled function runs.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1))
    return all(mallopt(name, value) == 1 for name, value in settings)
