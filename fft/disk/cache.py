"""What is kept between runs, outside of any run folder: fetched packages, the demo's base, compiled programs."""

import os
import tempfile
import warnings
from pathlib import Path

from fft.core.errors import MachineError
from fft.disk.locks import lock
from fft.disk.surroundings import home_folder

COMPILED_BYTES = 2 * 1000**3


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/fft`, else `~/.cache/fft`; not created here. A path that is not absolute counts as none.

    Raises: MachineError where no home folder is known.
    """
    root = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(root):
        return Path(root) / "fft"
    if (home := home_folder()) is None:
        raise MachineError("no home folder is known for the cache; set XDG_CACHE_HOME to an absolute path")
    return Path(home) / ".cache" / "fft"


def keep_compiled_programs() -> None:
    """Let JAX keep what it compiles in the cache folder, at most COMPILED_BYTES, so that a second run starts at once.

    Must be called before jax is imported, which reads the environment then. A cache of the user's own stands, and a
    folder that cannot be written means no cache, as does one without locks, which JAX would wait for at every program;
    that an entry cannot be kept or read is never worth a word.
    """
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = cache_folder() / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as probe:
            lock(probe)
        remove_torn_entries(folder)
    except (OSError, MachineError):
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(COMPILED_BYTES))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def remove_torn_entries(folder: Path) -> None:
    """Remove programs without a time of use: the process that wrote them was killed before it was done.

    JAX would neither mend such an entry nor, as it stops at the missing time, keep any other program after it.
    """
    for entry in folder.glob("*-cache"):
        if not entry.with_name(entry.name.removesuffix("-cache") + "-atime").exists():
            entry.unlink(missing_ok=True)
