"""Large blocks that are freed are used again, not mapped anew."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from fft.commands.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(3):
    np.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode):
    command = [sys.executable, "-c", PROGRAM, mode]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_a_large_block_is_reused():
    assert faults("keep") < 10
    assert faults("leave") > 40  # numpy asks for huge pages: 128 MB are 62 of 2 MB
