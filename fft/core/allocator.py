"""Memory on the CPU: freed memory is reused by the next step and returned to the system between the parts of a run."""

import ctypes
import sys
from functools import cache

# Parameters of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Make glibc reuse a step's buffers for the next step; return whether that took effect (Linux with glibc).

    XLA's CPU buffers are large, and glibc maps each block above 32 MB when allocated and unmaps it when freed. The next
    step then takes a page fault per 4 KB (115,000 a step for MiniLM at B = 32, T = 48, an eighth of the step's CPU
    time). The price is memory, because gaps between buffers of different sizes remain: `release_freed_memory` returns
    those. The settings apply to the whole process; call this before the first compiled function runs.
    """
    libc = _glibc()
    settings = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1))
    return libc is not None and all(libc.mallopt(name, value) == 1 for name, value in settings)


def release_freed_memory() -> None:
    """Return all freed pages to the system, those in gaps between live buffers included; nothing outside glibc.

    Call it where other buffers are needed next: after a compilation, scoring or saving, but not between steps.
    """
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def run_programs_in_turn() -> None:
    """Make every compiled CPU program release its temporary buffers before the next one starts.

    JAX dispatches CPU programs to other threads, and reports the results of a program before its buffers are released.
    The next program may then allocate its own beside them, as the threads happen to run: three gradients of MiniLM
    (B = 32, T = 40) add 480 or 830 MB. Call this before the first program runs. It changes a setting of JAX, so it is
    for a process of our own, not for a library.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)


@cache
def _glibc() -> ctypes.CDLL | None:
    """Return the C library if it is glibc, which alone has both functions."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if libc.mallopt and libc.malloc_trim else None
    except (OSError, AttributeError):
        return None
