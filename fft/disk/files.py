"""JSON files and other small files: atomic writing, reading, comparing and hashing."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, overload

from fft.core.errors import InputError, MachineError

REMEDY = "Free some space, or choose a folder that can be written"
REMEDIES = {
    errno.ENAMETOOLONG: "Choose a shorter path",
    errno.ENOENT: "Create its folder first, or choose another path",
    **dict.fromkeys((errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP), "Choose another path"),
}


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn an `OSError` of the block into a `MachineError` that names `path` and the reason."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str | Path, error: OSError) -> MachineError:
    """Return the error for a path that cannot be written, with the reason and the remedy."""
    return MachineError(f"cannot write {path}: {error.strerror or error}. {REMEDIES.get(error.errno or 0, REMEDY)}")


@overload
def plain(value: dict, where: str = "") -> dict[str, Any]: ...
@overload
def plain(value: object, where: str = "") -> Any: ...
def plain(value: Any, where: str = "") -> Any:
    """Convert a value to plain JSON data.

    Dataclasses and NamedTuples become objects, numpy and jax scalars and arrays become numbers and lists, tuples
    become lists, paths strings, and numbers that are not finite null, as JSON has none.
    Raises: TypeError with the dotted path of a value that JSON cannot hold.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{where or 'the value'}: JSON cannot hold a {type(value).__name__}")


def canonical(value: object) -> bytes:
    """Return the canonical JSON of a value: keys sorted, no spaces, UTF-8.

    Raises: ValueError for a number that is not finite.
    """

    def convert(item: Any) -> Any:
        return item.tolist() if hasattr(item, "tolist") else plain(item)

    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=convert
    ).encode()


def experiment_hash(experiment: dict) -> str:
    """Return the sha256 of the canonical JSON (64 hex digits), which does not depend on the order of keys.

    Raises: InputError for a number that is not finite: JSON cannot hold it, so the file could not repeat the run.
    """
    try:
        return hashlib.sha256(canonical(experiment)).hexdigest()
    except ValueError as error:
        raise InputError(f"the experiment holds a number that is not finite: {error}; set a finite one") from error


def write_json(path: str | Path, value: object) -> None:
    """Write `plain(value)` to `path` atomically: to a temporary file in the same folder, fsync, `os.replace`.

    Raises: MachineError if the disk is full or the folder cannot be written; an older file then stays unchanged.
    """
    path = Path(path)
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(path, text.encode())


def replace_file(path: str | Path, content: bytes) -> None:
    """Write bytes to `path` atomically. Raises: MachineError if they cannot be written."""
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


def sync_folder(folder: str | Path) -> None:
    """Flush a folder's entries to disk, as fsync does for a file's bytes, so that they survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parsed(text: str | bytes, unique: bool = False) -> Any:
    """Parse a JSON text, with or without a byte order mark.

    Raises: ValueError if it is not JSON or nested too deeply, with `unique` also if an object has a key twice, of
    which JSON readers otherwise take the last.
    """
    hook = _without_repeats if unique else None
    try:
        return json.loads(text.removeprefix("\ufeff") if isinstance(text, str) else text, object_pairs_hook=hook)
    except RecursionError:
        raise ValueError("it is nested too deep to be read") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of a JSON text. Raises: ValueError naming a key that it has twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object has the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return values


def parsed_file(path: Path) -> Any:
    """Parse a JSON file. Raises: ValueError as `parsed`, and for another encoding than UTF-8."""
    try:
        return parsed(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}; save it as UTF-8") from None


def read_object(path: Path, objects: Iterable[str] = ()) -> dict:
    """Return the JSON object in a file of a run folder.

    Raises: InputError if it is missing, not a JSON object, or lacks one of the `objects` that it must hold.
    """
    remedy = "restore the file from a copy, or run again in a new folder"
    try:
        value = parsed_file(path)
    except FileNotFoundError:
        raise InputError(f"{path.parent} is not a run folder: it has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; {remedy}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}: {remedy}")
    for name in objects:
        if not isinstance(value.get(name), dict):
            raise InputError(f"{path}: expected an object in {name}, got {value.get(name)!r:.40}: {remedy}")
    return value


_ABSENT = object()


def diff(old: dict, new: dict) -> list[str]:
    """Return the changes between two nested JSON objects, one line per value: `optim.lr: 2e-05 -> 0.0001`.

    A key that only one of them has is shown as `(absent)` in the other. A list is compared as one value, except two
    lists of objects with the same names in the same order, such as a chain of methods: these are compared name by name.
    """
    return _diff(plain(old), plain(new), "")


def _diff(old: Any, new: Any, path: str) -> list[str]:
    if (names := _names(old)) and names == _names(new):
        old, new = (dict(zip(names, objects, strict=True)) for objects in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        lines = [_diff(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{path}.{key}") for key in keys]
        return [line for part in lines for line in part]
    if old is not _ABSENT and new is not _ABSENT and old == new and isinstance(old, bool) == isinstance(new, bool):
        return []
    return [f"{path.lstrip('.')}: {_show(old)} -> {_show(new)}"]


def _names(value: object) -> list[str]:
    """Return the names of a list of objects that have one; [] for any other value."""
    if not isinstance(value, list) or not all(isinstance(item, dict) and "name" in item for item in value):
        return []
    return [item["name"] for item in value]


def _show(value: object) -> str:
    return "(absent)" if value is _ABSENT else json.dumps(value, ensure_ascii=False)


def write_lines(path: Path, lines: Iterable[dict]) -> None:
    """Write one JSON line per object, atomically; numbers that are not finite become null.

    Raises: MachineError if the disk is full or the folder cannot be written.
    """
    text = "".join(json.dumps(plain(line), ensure_ascii=False) + "\n" for line in lines)
    replace_file(path, text.encode())
