"""What a run writes down beside its weights: JSON files, the event log, the surroundings."""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from fft.errors import InputError, MachineError

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
    "scikit-learn",
    "transformers",
    "tokenizers",
    "safetensors",
    "tensorflow-datasets",
    "pyarrow",
)

REMEDY = "Free some space, or choose a folder that can be written"
REMEDIES = {
    errno.ENAMETOOLONG: "Choose a shorter path",
    errno.ENOENT: "Make its folder first, or choose another path",
    **dict.fromkeys((errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP), "Choose another path"),
}


@contextlib.contextmanager
def writing(path):
    """Turn every `OSError` of the block into a `MachineError` that names `path` and the reason."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path, error: OSError) -> MachineError:
    """The one wording for what cannot be written: where, why, and what to do about that."""
    return MachineError(f"cannot write {path}: {error.strerror or error}. {REMEDIES.get(error.errno, REMEDY)}")


def plain(value, where: str = ""):
    """`value` as JSON holds it: numpy and jax scalars and arrays become numbers and lists, tuples lists, paths
    strings, and numbers that are not finite become null (JSON has none).

    Raises TypeError naming the dotted place of a value that JSON cannot hold.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item, f"{where}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{where or 'the value'}: JSON cannot hold a {type(value).__name__}")


def canonical(value) -> bytes:
    """The one spelling of a JSON value: keys sorted, no spaces, UTF-8. ValueError for a number that is not finite."""

    def convert(item):
        return item.tolist() if hasattr(item, "tolist") else plain(item)

    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=convert
    ).encode()


def experiment_hash(experiment: dict) -> str:
    """sha256 (64 hex digits) of the canonical JSON: equal for equal experiments, whatever the order of their keys.

    Raises InputError where a number is not finite: JSON cannot hold it, so the run could not be repeated from its file.
    """
    try:
        return hashlib.sha256(canonical(experiment)).hexdigest()
    except ValueError as error:
        raise InputError(f"the experiment holds a number that is not finite: {error}") from error


def write_json(path, value) -> None:
    """Write `plain(value)` to `path` whole or not at all: a temporary file beside it, fsync, `os.replace`.

    Raises MachineError when the disk is full or the folder cannot be written; an older file then stays as it was.
    """
    path = Path(path)
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(path, text.encode())


def replace_file(path, content: bytes) -> None:
    """Write the bytes to `path` whole or not at all; MachineError when they cannot be written."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def sync_folder(folder) -> None:
    """Make the names in a folder survive a power cut, as fsync does for a file's bytes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parsed(text: str | bytes) -> Any:
    """The value of a JSON text from outside, whether a byte order mark begins it or not.

    Raises ValueError for what is no JSON, or nested too deep to be read.
    """
    try:
        return json.loads(text.removeprefix("\ufeff") if isinstance(text, str) else text)
    except RecursionError:
        raise ValueError("it is nested too deep to be read") from None


def parsed_file(path: Path) -> Any:
    """The value in a JSON file from outside; ValueError as `parsed`, and for a file in another encoding than UTF-8."""
    try:
        return parsed(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}; save it as UTF-8") from None


def read_object(path: Path) -> dict:
    """The JSON object in a file of a run folder; InputError when it is missing or no JSON."""
    try:
        return parsed_file(path)
    except FileNotFoundError:
        raise InputError(f"{path.parent} is not a run folder: it has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None


class MetricsLog:
    """metrics.jsonl: one JSON object a line, each handed to the system as it is written, so that a kill loses none.

    A line torn by a kill in mid-write is dropped when the log is opened again.

        with MetricsLog(run / 'metrics.jsonl') as log:
            log.truncate_after(step)                       # on resume: what comes after will be written again
            log.write('train', step=10, loss=0.3)          # {"event": "train", "step": 10, "loss": 0.3}
    """

    def __init__(self, path):
        self.path = Path(path)
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 held until close()
            self._drop_torn_line()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        self._file.close()

    def write(self, event: str, step: int, **fields) -> None:
        """Append one event. Raises MachineError on a full disk, and leaves no part of the line behind."""
        line = json.dumps(plain({"event": event, "step": step, **fields}), ensure_ascii=False).encode() + b"\n"
        start = os.fstat(self._file.fileno()).st_size
        with writing(self.path):
            try:
                if self._file.write(line) != len(line):
                    raise OSError(0, "the disk took only a part of the line")
            except OSError:
                self._file.truncate(start)
                raise

    def truncate_after(self, step: int) -> int:
        """Keep the events up to and with `step`; returns how many lines went (unreadable ones among them)."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) is not None and _step_of(line) <= step]
        if len(kept) < len(lines):
            self._file.close()
            replace_file(self.path, b"".join(kept))
            with writing(self.path):
                self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 held until close()
        return len(lines) - len(kept)

    def events(self) -> set[tuple[str, int]]:
        """The events that can be read, as (name, step)."""
        lines = self.path.read_bytes().splitlines()
        return {(json.loads(line).get("event"), step) for line in lines if (step := _step_of(line)) is not None}

    def _drop_torn_line(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)


def _step_of(line: bytes) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None


def environment() -> dict:
    """What a run ran on: git commit of the installed source, versions, device. No path, no host name, no network.

    Returns {'git': {'commit', 'dirty'}, 'versions': {'python', package: version or None},
    'device': {'platform', 'kind', 'count', 'threads'}}; git's values are None where fft is not run from a checkout.
    """
    import jax

    devices = jax.devices()
    return {
        "git": _git(Path(__file__).parent),
        "versions": {"python": platform.python_version(), **{name: installed_version(name) for name in PACKAGES}},
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
    }


def installed_version(package: str) -> str | None:
    """The version of an installed distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(source: Path) -> dict:
    """Commit of the checkout that tracks `source`, and whether anything under `source` differs from it."""
    # A hook runs with GIT_DIR set to its own repository, and `status` would otherwise write to the index.
    surroundings = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    surroundings["GIT_OPTIONAL_LOCKS"] = "0"

    def ask(*words):
        return subprocess.run(
            ["git", *words], cwd=source, env=surroundings, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", Path(__file__).name)  # a copy in site-packages is not the checkout around it
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


_ABSENT = object()


def diff(old: dict, new: dict) -> list[str]:
    """What changed between two nested JSON objects, one line a value: `optim.lr: 2e-05 -> 0.0001`.

    A key on one side alone reads `(absent)`; lists are compared whole, but those of named objects, such as a chain of
    methods, name by name where both hold the same names in the same order; an empty list means equal.
    """
    return _diff(plain(old), plain(new), "")


def _diff(old, new, path: str) -> list[str]:
    if (names := _names(old)) and names == _names(new):
        old, new = (dict(zip(names, objects, strict=True)) for objects in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        lines = [_diff(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{path}.{key}") for key in keys]
        return [line for part in lines for line in part]
    if old is not _ABSENT and new is not _ABSENT and old == new and isinstance(old, bool) == isinstance(new, bool):
        return []
    return [f"{path.lstrip('.')}: {_show(old)} -> {_show(new)}"]


def _names(value) -> list[str]:
    """The names of a list of named objects; none of any other value."""
    named = isinstance(value, list) and all(isinstance(item, dict) and "name" in item for item in value)
    return [item["name"] for item in value] if named else []


def _show(value) -> str:
    return "(absent)" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
