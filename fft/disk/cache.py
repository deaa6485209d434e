"""The user's cache folder, shared by all runs: fetched packages, the demo's base, compiled programs."""

import os
import tempfile
import warnings
from pathlib import Path

from fft.core.errors import MachineError
from fft.disk.locks import lock
from fft.disk.surroundings import home_folder

COMPILED_BYTES = 2 * 1000**3


def cache_folder() -> Path:
    """Return `$XDG_CACHE_HOME/fft`, else `~/.cache/fft`, without creating it; a relative XDG_CACHE_HOME is ignored.

    Raises: MachineError if no home folder is known.
    """
    root = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(root):
        return Path(root) / "fft"
    if (home := home_folder()) is None:
        raise MachineError("no home folder is known for the cache; set XDG_CACHE_HOME to an absolute path")
    return Path(home) / ".cache" / "fft"


def keep_compiled_programs() -> None:
    """Let JAX cache compiled programs in the cache folder, up to COMPILED_BYTES, so that later runs start faster.

    Must be called before jax is imported, as jax reads the environment at import. A cache that the user has configured
    is left alone. There is no cache if the folder cannot be written or has no file locks, for which JAX would wait at
    every program. Warnings about single entries are hidden.
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
    """Remove programs without an access-time file, left by a process that was killed while writing them.

    JAX does not repair such an entry, and fails at the missing file whenever it wants to add another program.
    """
    for entry in folder.glob("*-cache"):
        if not entry.with_name(entry.name.removesuffix("-cache") + "-atime").exists():
            entry.unlink(missing_ok=True)
