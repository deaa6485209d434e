"""Large blocks that are freed are used again, not mapped anew, until they are released."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from fft.core.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(3):
    np.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
GAPS = """
import numpy as np
from fft.core.allocator import keep_freed_memory, release_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

keep_freed_memory()
blocks = [np.ones(4_000_000) for _ in range(8)]
del blocks[:7]  # the last one is above the gap
before = resident()
release_freed_memory()
print((before - resident()) // 10**6)
"""


def faults(mode):
    command = [sys.executable, "-c", PROGRAM, mode]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_a_large_block_is_reused():
    assert faults("keep") < 10
    assert faults("leave") > 40  # numpy asks for huge pages: 128 MB are 62 of 2 MB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_gaps_below_live_blocks_are_released():
    done = subprocess.run([sys.executable, "-c", GAPS], check=True, capture_output=True, text=True)
    assert int(done.stdout) > 200  # megabytes, of seven blocks of 32
