"""The environment of a run: git commit, package versions, device."""

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
    """The environment of a command."""

    git: dict[str, Any]
    """{"commit", "dirty"} of the installed source; both None if it is not in a git checkout"""
    versions: dict[str, str | None]
    """{"python", package: version or None}"""
    device: dict[str, Any]
    """{"platform", "kind", "count", "threads"}"""


def environment() -> Environment:
    """Return the environment of this process, without paths, host names or network access."""
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
    """Return the version of a distribution, or None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_state(source: Path) -> dict:
    """Return the commit of the checkout that tracks `source`, and whether anything under `source` differs from it."""
    # Git hooks set GIT_DIR to their own repository; without GIT_OPTIONAL_LOCKS=0 `status` would write to the index.
    variables = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    variables["GIT_OPTIONAL_LOCKS"] = "0"

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=source, env=variables, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # fails for a copy in site-packages inside another checkout
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
