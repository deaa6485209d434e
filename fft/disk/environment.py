"""What a run ran on: the commit, the versions, the device."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = (
    "fft-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "scipy",
    "transformers",
    "tokenizers",
    "safetensors",
    "tensorflow-datasets",
    "pyarrow",
)


class Environment(NamedTuple):
    """What a command ran on."""

    git: dict[str, Any]
    """{"commit", "dirty"} of the installed source; None where fft is not run from a checkout"""
    versions: dict[str, str | None]
    """{"python", package: version or None}"""
    device: dict[str, Any]
    """{"platform", "kind", "count", "threads"}"""


def environment() -> Environment:
    """What this process runs on. No path, no host name, no network."""
    import jax

    devices = jax.devices()
    return Environment(
        git_state(Path(__file__).parents[1]),
        {"python": platform.python_version(), **{name: installed_version(name) for name in PACKAGES}},
        {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
    )


def installed_version(package: str) -> str | None:
    """The version of an installed distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_state(source: Path) -> dict:
    """Commit of the checkout that tracks `source`, and whether anything under `source` differs from it."""
    # A hook runs with GIT_DIR set to its own repository, and `status` would otherwise write to the index.
    surroundings = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    surroundings["GIT_OPTIONAL_LOCKS"] = "0"

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=source, env=surroundings, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", "__init__.py")  # a copy in site-packages is not the checkout around it
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
