"""What is kept between runs, outside of any run folder: fetched packages, the demo's base, compiled programs."""

import os
from pathlib import Path

COMPILED_BYTES = 2 * 1000**3


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/fft`, else `~/.cache/fft`; not created here."""
    root = os.environ.get("XDG_CACHE_HOME")
    return Path(root if root else Path.home() / ".cache") / "fft"


def keep_compiled_programs() -> None:
    """Let JAX keep what it compiles in the cache folder, at most COMPILED_BYTES, so that a second run starts at once.

    Must be called before jax is imported, which reads the environment then. Settings of the user's own stand; a folder
    that cannot be written means no cache.
    """
    folder = cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(COMPILED_BYTES))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
