"""Large blocks that are freed are used again, not mapped anew, until they are released; programs run in turn."""

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
IN_TURN = """
import ctypes
import jax
import jax.numpy as jnp
from fft.core.allocator import keep_freed_memory, run_programs_in_turn

class Allocated(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "a b c d mapped e f used g h".split()]

libc = ctypes.CDLL("libc.so.6")
libc.mallinfo2.restype = Allocated
keep_freed_memory()
run_programs_in_turn()

@jax.jit
def program(x):  # its temporary buffers are several times x xᵀ, of 16 MB
    return jnp.sum(jnp.sort(jnp.sin(x @ x.T), axis=0)[:7]), jnp.sum(jnp.sort(jnp.cos(x @ x.T), axis=1)[:, 7:])

x, used = jnp.ones((2000, 8)), []
for i in range(31):
    jax.block_until_ready(program(x + i))
    used.append(libc.mallinfo2().used)
print((max(used[1:]) - min(used[1:])) // 10**6)
"""
COMMAND = """
import sys
from fft.commands.cli import main

code = main(["data", sys.argv[1], "--json"])
import jax
print(code, jax.config.read("jax_cpu_enable_async_dispatch"))
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_the_buffers_of_a_program_are_released_before_the_next_one():
    done = subprocess.run([sys.executable, "-c", IN_TURN], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 8  # megabytes; without run_programs_in_turn 16 and more after some of the calls


def test_a_command_runs_programs_in_turn(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"row {i},{'ab'[i % 2]}\n" for i in range(40)))
    command = [sys.executable, "-c", COMMAND, tmp_path / "rows.csv"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output.splitlines()[-1] == "0 False"
