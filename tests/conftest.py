"""How tests compile, and fixtures of real weights and data: from the cache, fetched into it at first use, or a skip.

Compiling is most of what the tests would cost, so here and in the processes that they start XLA leaves out what takes
long: costly optimisations, its fusion emitters, code in many parts. The numbers are as right, the programs slower.
"""

import functools
import gc
import inspect
import os
import resource

import pytest

from fft.core.errors import MachineError

QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=2"
MOST = 3 * 2**20  # kilobytes that a worker may hold before it drops programs
gc.set_threshold(100_000, 50, 100)  # tracing makes many small objects, few of them rubbish
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()  # read when jax first compiles


def _fetched(make):
    try:
        return make()
    except MachineError as error:
        pytest.skip(f"not in the cache: {error}")


@pytest.fixture(scope="session")
def minilm():
    """The Hugging Face folder of MiniLM."""
    from fft.data import demo

    return _fetched(demo.minilm_folder)


@pytest.fixture(scope="session")
def smollm2():
    """The Hugging Face folder of SmolLM2-135M-Instruct."""
    from fft import models

    return _fetched(lambda: models.find_folder("demo:smollm2"))


@pytest.fixture(scope="session")
def demo_data():
    """The tfds folder of the rated sentences."""
    from fft.data import demo

    return _fetched(demo.demo_data)


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """Every program is compiled once for all workers, tests, and the processes that tests start."""
    import jax

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    settings = {
        "jax_compilation_cache_dir": str(folder / "compiled"),
        "jax_compilation_cache_max_size": -1,
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_disable_most_optimizations": True,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield


@pytest.fixture(scope="session", autouse=True)
def sources_read_once():
    """The source of a class is found once: tyro reads the docstrings of all flags anew for every command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "getsource", functools.cache(inspect.getsource))
        yield


@pytest.fixture(scope="module", autouse=True)
def forgotten(compiled_once):
    """A worker that has grown large drops the programs of a file behind it; all of them would fill the memory."""
    import jax

    yield
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > MOST:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """No line breaks a silence: what a command prints does not depend on how busy the machine is."""
    monkeypatch.setattr("fft.report.console.QUIET", 600.0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with small bases and data, see `write_inputs`; the bases have no dropout, which is slow to compile."""
    from tests.helpers import tiny_checkpoint

    return tiny_checkpoint.write_inputs(tmp_path_factory.mktemp("tiny"), **tiny_checkpoint.WITHOUT_DROPOUT)


@pytest.fixture(scope="session")
def dropping(tmp_path_factory):
    """The same with dropout, for files whose runs must draw its masks again: there it takes the place of `tiny`."""
    from tests.helpers import tiny_checkpoint

    return tiny_checkpoint.write_inputs(tmp_path_factory.mktemp("dropping"))
