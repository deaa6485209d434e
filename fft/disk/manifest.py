"""The manifest of a checkpoint: every leaf and every file with its hash.

    {"format": 2, "step": 120, "arrays": {path: {"shape", "dtype", "sha256"}}, "files": {name: {"bytes", "sha256"}},
     "sha256": of all the above}

A leaf that is not in ARRAYS has a "folder"; a reduced step has REST: "gone".

The files' hashes are checked before orbax opens them, as orbax does not detect a flipped bit. The leaves' hashes,
taken from memory, prove that the restored arrays are the trained ones.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.errors import InputError
from fft.disk.files import canonical, parsed, write_json

Item = TypeVar("Item")
Result = TypeVar("Result")

FORMAT, READABLE = 2, (1, 2)
"""format 1 has a single folder for all leaves"""
ARRAYS, REST = "arrays", "rest"
"""the folders for the lasting leaves and for the others"""
MANIFEST = "manifest.json"
LINES_SHOWN = 20


class DamagedError(Exception):
    """Raised for a step whose files are not those that were saved."""


def named_leaves(tree: object) -> list[tuple[str, Any]]:
    """Return [(slash path, leaf)] in jax's order.

    Raises: InputError if two leaves get the same path, a leaf has no name, or a key is empty or has a dot or slash.
    """
    pairs = [("/".join(map(_part, path)), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]
    seen = set()
    for path, _ in pairs:
        if path in seen or not path:
            raise InputError(f"checkpoint: {f'two leaves are named {path}' if path else 'a bare leaf has no name'}")
        seen.add(path)
    return pairs


def _part(entry: object) -> str:
    """Return the name of one entry of a jax path: a dict's key, a NamedTuple's field, a tuple's index."""
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            part = str(getattr(entry, attribute))
            if not part or "." in part or "/" in part:
                raise InputError(f"checkpoint: the key {part!r} is empty or holds a dot or slash; rename it")
            return part
    raise InputError(f"checkpoint: a tree may hold dicts, lists, tuples and NamedTuples, not {entry!r}")


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def spec(leaf: Any) -> dict:
    """Return {'shape', 'dtype'} of an array, a ShapeDtypeStruct or a Python number."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return {"shape": list(np.shape(leaf)), "dtype": str(dtype)}


def folder_of(row: dict) -> str:
    """Return the folder of the leaf that a manifest row describes."""
    return row.get("folder", ARRAYS)


def host_leaves(tree: object, lasting: str | None = None) -> dict[str, tuple[np.ndarray, dict]]:
    """Return {path: (array on the host, manifest row without its hash)}; a PRNG key becomes its uint32 data.

    `lasting` names the top-level part of the tree whose leaves last; None: all of them.
    Raises: InputError for a leaf that jax cannot hold; as `named_leaves`.
    """
    leaves = {}
    for path, leaf in named_leaves(tree):
        try:
            row = spec(leaf)
            if lasting is not None and path.split("/")[0] != lasting:
                row["folder"] = REST
            if _is_key(leaf):
                row["key"] = str(jax.random.key_impl(leaf))
                leaf = jax.random.key_data(leaf)
            value = np.asarray(leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf), order="C")
            if not (jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool):
                raise TypeError(f"{value.dtype} is not a numeric type")
            restorable = value.dtype == jax.dtypes.canonicalize_dtype(value.dtype)
            restorable = restorable and not ("key" in row and not value.size)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"checkpoint: {path} is a {type(leaf).__name__}, not an array") from error
        if not restorable:
            raise InputError(
                f"checkpoint: {path} is {row['dtype']}{row['shape']}, which jax would not restore; cast it"
            )
        leaves[path] = (value, row)
    return leaves


def write_manifest(folder: Path, step: int, leaves: dict) -> None:
    """Write the manifest of the files now in `folder` and of `leaves`, which `host_leaves` returned.

    Raises: MachineError on a full disk.
    """
    hashes = in_threads(hash_array, [value for value, _ in leaves.values()])
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "format": FORMAT,
        "step": step,
        "arrays": {
            path: {**row, "sha256": sha256} for (path, (_, row)), sha256 in zip(leaves.items(), hashes, strict=True)
        },
        "files": {
            path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256}
            for path, sha256 in zip(files, in_threads(hash_file, files), strict=True)
        },
    }
    _write(folder, manifest)


def without_rest(folder: Path) -> None:
    """Remove the leaves and files of REST, if any, from a step's manifest.

    Raises: DamagedError as `read_manifest`.
    """
    manifest = read_manifest(folder)
    arrays = {path: row for path, row in manifest["arrays"].items() if folder_of(row) != REST}
    files = {name: row for name, row in manifest["files"].items() if name.split("/")[0] != REST}
    if len(arrays) < len(manifest["arrays"]):
        _write(folder, manifest | {"arrays": arrays, "files": files, REST: "gone"})


def _write(folder: Path, manifest: dict) -> None:
    write_json(folder / MANIFEST, {**manifest, "sha256": hashlib.sha256(canonical(manifest)).hexdigest()})


def read_manifest(folder: Path) -> dict:
    """Return the manifest in `folder`.

    Raises: DamagedError if it is missing or was changed, InputError if its format is too new.
    """
    try:
        manifest = parsed((folder / MANIFEST).read_bytes())
        claimed = manifest.pop("sha256")
        good = claimed == hashlib.sha256(canonical(manifest)).hexdigest()
    except FileNotFoundError:
        raise DamagedError(f"it has no {MANIFEST}, so its save did not finish") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{MANIFEST} cannot be read ({error})") from error
    if not good:
        raise DamagedError(f"{MANIFEST} is not what was saved")
    if manifest["format"] not in READABLE:
        raise InputError(
            f"{folder} has format {manifest['format']}, and this version of fft reads formats up to {FORMAT}; "
            "use a newer version"
        )
    return manifest


def check_files(folder: Path, manifest: dict, names: Iterable[str]) -> None:
    """Check files against the manifest. Raises: DamagedError for the first that is missing, truncated or changed."""

    def problem(name: str) -> str | None:
        path, row = folder / name, manifest["files"][name]
        try:
            size = path.stat().st_size
            if size != row["bytes"]:
                return f"{name}: {row['bytes']} bytes were saved, {size} are there"
            return None if hash_file(path) == row["sha256"] else f"{name}: its bytes are not those that were saved"
        except OSError as error:
            return f"{name}: {error.strerror}"

    for text in in_threads(problem, names):
        if text:
            raise DamagedError(text)


def check_arrays(arrays: dict[str, tuple[np.ndarray, dict]]) -> None:
    """Check arrays {path: (value, row)}. Raises: DamagedError for a value without the hash of its manifest row."""
    hashes = in_threads(hash_array, [value for value, _ in arrays.values()])
    for (path, (_, row)), sha256 in zip(arrays.items(), hashes, strict=True):
        if sha256 != row["sha256"]:
            raise DamagedError(f"{path}: the numbers are not those that were saved")


def compare(folder: Path, rows: dict, specs: dict, reduced: bool) -> None:
    """Compare the manifest rows of a step with the expected `specs`, both by path; `reduced`: its REST is gone.

    Raises: InputError with one line per path that differs.
    """
    if reduced and specs.keys() - rows.keys():
        raise InputError(
            f"{folder} is from a finished run and lacks the state to continue training: train again in a new folder"
        )
    lines = [f"{path}: missing in the checkpoint" for path in specs if path not in rows]
    lines += [f"{path}: in the checkpoint, but not expected" for path in rows if path not in specs]
    for path in specs:
        for what in ("shape", "dtype"):
            if path in rows and specs[path][what] != rows[path][what]:
                lines.append(f"{path}: {what} {rows[path][what]} in the checkpoint, {specs[path][what]} expected")
    if lines:
        shown = lines[:LINES_SHOWN] + [f"and {len(lines) - LINES_SHOWN} more"] * (len(lines) > LINES_SHOWN)
        raise InputError("\n  ".join([f"{folder} holds another state than this run expects:", *shown]))


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Apply a function to items in parallel threads; hashing is faster so, as hashlib releases the interpreter lock."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def hash_array(value: np.ndarray) -> str:
    """Return the sha256 of the bytes of a C-contiguous array."""
    return hashlib.sha256(value.reshape(-1).view(np.uint8).data).hexdigest()


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
