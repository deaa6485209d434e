"""Checkpoints of a running training: saved atomically, verified when read, with older steps to fall back on.

    FOLDER/00000120/            one saved step; 00000120.1 if the same step is saved again
        arrays/                 orbax: the lasting leaves of the tree, by path
        rest/                   orbax: the other leaves, needed only to resume the run
        extra.json              JSON data saved with the arrays: history, counters
        manifest.json           path -> shape, dtype, sha256; file -> bytes, sha256; written last

A folder without a manifest is an unfinished save: it is ignored, and the next save removes it.
"""

import contextlib
import glob
import json
import os
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from fft.core.errors import InputError
from fft.disk.files import cannot_write, plain, replace_file, sync_folder, writing
from fft.disk.manifest import (
    ARRAYS,
    MANIFEST,
    REST,
    DamagedError,
    check_arrays,
    check_files,
    compare,
    folder_of,
    host_leaves,
    named_leaves,
    read_manifest,
    spec,
    without_rest,
    write_manifest,
)
from fft.disk.quiet import abandoned_writes_are_silent, quiet

Read = TypeVar("Read")


class Restored(NamedTuple):
    """A restored step: its number, its tree of jax arrays in the requested structure, and its `extra` JSON object."""

    step: int
    tree: Any
    extra: dict


class Entry(NamedTuple):
    """One saved step; entries sort by step, then by attempt, as a step may be saved again."""

    step: int
    attempt: int
    folder: Path


class Checkpoints:
    """The saved steps in a folder, at most three: the latest, the one before it, and the best.

    Only `save` and `reduce` write, so a notebook may read a run that is still training. `warnings` gets one line
    for each damaged step that a read has skipped.

        checkpoints = Checkpoints(run / 'checkpoints')
        checkpoints.save(120, {'theta': theta, 'opt_state': opt_state, 'key': key}, {'history': history}, best=80)
        step, tree, extra = checkpoints.restore(like)
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self.warnings: list[str] = []
        self._damaged: set[Path] = set()

    def steps(self) -> list[int]:
        """Return the steps whose save finished, ascending; whether they are intact is checked only on reading."""
        return sorted({entry.step for entry in self._entries()})

    def save(self, step: int, tree: object, extra: dict, best: int | None = None, lasting: str | None = None) -> None:
        """Save a tree of arrays (dicts, tuples, NamedTuples; typed PRNG keys too) and a JSON object, and clean up.

        Blocks until the step is on disk; earlier steps stay intact if the process is killed. Besides the two latest
        steps, the step `best` is not deleted. Saving a step again replaces it once the new save is complete. `lasting`
        names the top-level part of the tree that survives `reduce`; None: all of it.

        Raises: InputError for a key with a dot or slash, or a leaf jax cannot hold; MachineError if the disk is full
        or the folder cannot be written, and then removes the unfinished step.
        """
        leaves = host_leaves(tree, lasting)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._tidy()
            earlier = [entry.attempt for entry in self._entries() if entry.step == step]
            name = f"{step:08d}.{max(earlier) + 1}" if earlier else f"{step:08d}"
            entry = Entry(step, max(earlier) + 1 if earlier else 0, self.folder / name)
            try:
                _write(entry, leaves, extra)
                sync_folder(self.folder)
            except BaseException:
                _remove(entry.folder)
                raise
            self._prune(entry, best)

    def reduce(self, steps: Collection[int]) -> None:
        """Delete all steps but `steps`, and of these all but their `lasting` part; their manifests record it.

        If the process is killed, the lasting parts stay readable and the next call completes the deletion. Nothing is
        written if there is nothing to delete. A step saved with `lasting=None` is not reduced.

        Raises: MachineError if a manifest cannot be written; the other steps have been deleted by then.
        """
        survivors = {entry.step: entry for entry in self._entries() if entry.step in steps}
        doomed = {entry.folder for entry in _folders(self.folder)} - {entry.folder for entry in survivors.values()}
        for folder in doomed.union(self.folder.glob("damaged-*")):
            _remove(folder)
        for entry in survivors.values():
            _reduce(entry)

    def restore(self, like: object, step: int | None = None, part: bool = False) -> Restored:
        """Read the latest intact step, or `step`, into the structure of `like` (arrays or `jax.ShapeDtypeStruct`s).

        With `part` the step may hold leaves that `like` has not. Every byte that is read is checked against the
        manifest. A damaged latest step is skipped with a line in `warnings`; a `step` requested by number is never
        replaced by another. The leaves are arrays on the default device, uncommitted like those of a fresh state: a
        committed argument would compile every program anew.

        Raises: InputError with the difference by path if the step holds another tree than `like`, and if no intact
        step is left.
        """
        specs = {path: spec(leaf) for path, leaf in named_leaves(like)}
        entry, (arrays, extra) = self._first_good(step, lambda entry: _read(entry, specs, part))
        leaves = [_to_device(arrays.pop(path)) for path in specs]
        return Restored(entry.step, jax.tree.unflatten(jax.tree.structure(like), leaves), extra)

    def read_extra(self, step: int | None = None) -> tuple[int, dict]:
        """Return a step's number and `extra`, without its arrays; falls back and raises as `restore`."""
        entry, extra = self._first_good(step, lambda entry: _read_extra(entry, read_manifest(entry.folder)))
        return entry.step, extra

    def _entries(self) -> list[Entry]:
        return [entry for entry in _folders(self.folder) if (entry.folder / MANIFEST).is_file()]

    def _first_good(self, step: int | None, read: Callable[[Entry], Read]) -> tuple[Entry, Read]:
        candidates = [entry for entry in reversed(_folders(self.folder)) if step is None or entry.step == step]
        skipped = []
        for entry in candidates:
            try:
                return entry, read(entry)
            except DamagedError as error:
                skipped.append(f"step {entry.step} in {entry.folder} is skipped: {error}")
                self.warnings.append(skipped[-1])
                self._damaged.add(entry.folder)
        others = [other for other in self.steps() if other != step]
        raise InputError(
            "\n  ".join(
                [
                    f"no intact checkpoint{'' if step is None else f' of step {step}'} in {self.folder}",
                    *skipped,
                    f"other steps there: {', '.join(map(str, others))}"
                    if step is not None and others
                    else f"remove {self.folder} to start again, or choose a new folder",
                ]
            )
        )

    def _tidy(self) -> None:
        """Remove unfinished saves, and rename damaged steps."""
        for entry in _folders(self.folder):
            if not (entry.folder / MANIFEST).exists():
                _remove(entry.folder)
            elif entry.folder in self._damaged:
                aside = entry.folder.with_name(f"damaged-{entry.folder.name}")
                _remove(aside)
                os.replace(entry.folder, aside)
        self._damaged.clear()

    def _prune(self, newest: Entry, best: int | None) -> None:
        older = [entry for entry in self._entries() if entry != newest]
        survivors = {*older[-1:], *[entry for entry in older if entry.step == best][-1:]}
        for entry in older:
            if entry not in survivors:
                _remove(entry.folder)


def _folders(folder: Path) -> list[Entry]:
    """Return every folder named like a step, finished or not, ascending."""
    matches = [(re.fullmatch(r"(\d{8,})(?:\.(\d+))?", path.name), path) for path in folder.glob("*")]
    return sorted(Entry(int(match[1]), int(match[2] or 0), path) for match, path in matches if match)


def _remove(folder: Path) -> None:
    """Delete a step, its manifest first, so that a half-deleted one does not count."""
    with contextlib.suppress(OSError):
        (folder / MANIFEST).unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _reduce(entry: Entry) -> None:
    """Delete the leaves of a step that do not last, first from its manifest. A damaged step is left as it is."""
    with contextlib.suppress(DamagedError):
        without_rest(entry.folder)
        shutil.rmtree(entry.folder / REST, ignore_errors=True)


def _to_device(pair: tuple[np.ndarray, dict]) -> jax.Array:
    value, row = pair
    array = jax.device_put(value).block_until_ready()  # so that the host's copy can go before the next
    return jax.random.wrap_key_data(array, impl=row["key"]) if "key" in row else array


# --- writing ---


def _write(entry: Entry, leaves: dict, extra: dict) -> None:
    entry.folder.mkdir()
    for folder in (ARRAYS, REST):
        _save_arrays(entry.folder / folder, {path: v for path, (v, row) in leaves.items() if folder_of(row) == folder})
    replace_file(entry.folder / "extra.json", json.dumps(extra, ensure_ascii=False, default=plain).encode())
    write_manifest(entry.folder, entry.step, leaves)


def _save_arrays(folder: Path, values: dict[str, np.ndarray]) -> None:
    """Save with orbax, without a copy of the arrays and without compression (3 times slower, only 8 % smaller)."""
    from orbax.checkpoint import v1 as ocp

    nested: dict = {}
    for path, value in values.items():
        if value.size:  # orbax rejects zero-size leaves, which the shape in the manifest restores
            *parents, name = path.split("/")
            node = nested
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = value
    if not nested:
        return
    context = ocp.Context()
    context.array.saving.use_compression = False
    # Orbax uses the folder's name in a glob pattern to find the parts of a database to merge: with [, * or ? in the
    # name it silently merges nothing. One file per array needs no merging.
    context.array.saving.use_ocdbt = glob.escape(str(folder)) == str(folder)
    context.memory.deepcopy_host_arrays = False
    # If asynchronous creation fails, orbax's threads wait for the folder forever and the interpreter never exits.
    context.asynchronous.create_directories_asynchronously = False
    try:
        with quiet(), abandoned_writes_are_silent(), context:
            ocp.save(str(folder), nested)
    except Exception as error:
        # tensorstore reports the system's error only as text in a ValueError
        if match := re.search(r"os_error_code='(\d+)'", str(error)):
            code = int(match[1])
            raise cannot_write(folder, OSError(code, os.strerror(code))) from error
        raise


# --- reading ---


def _read(entry: Entry, specs: dict, part: bool) -> tuple[dict, dict]:
    """Return ({path: (value, manifest row)}, extra) with every hash checked; first compare the manifest to `specs`."""
    manifest = read_manifest(entry.folder)
    rows = {path: row for path, row in manifest["arrays"].items() if path in specs or not part}
    compare(entry.folder, rows, specs, REST in manifest)
    extra = _read_extra(entry, manifest)
    folders = {folder_of(row) for row in rows.values()}
    check_files(entry.folder, manifest, [name for name in manifest["files"] if name.split("/")[0] in folders])
    arrays = _load_arrays(entry, rows)
    check_arrays(arrays)
    return arrays, extra


def _read_extra(entry: Entry, manifest: dict) -> dict:
    check_files(entry.folder, manifest, ["extra.json"])
    return json.loads((entry.folder / "extra.json").read_bytes())


def _load_arrays(entry: Entry, rows: dict) -> dict[str, tuple[np.ndarray, dict]]:
    flat = {}
    for folder in {folder_of(row) for row in rows.values()}:
        flat |= dict(named_leaves(_load_folder(entry.folder / folder)))
    lost = [path for path, row in rows.items() if path not in flat and 0 not in row["shape"]]
    if lost:
        raise DamagedError(f"orbax did not return {', '.join(lost)}")
    return {
        path: (flat[path] if path in flat else np.zeros(row["shape"], row["dtype"]), row) for path, row in rows.items()
    }


def _load_folder(folder: Path) -> dict:
    """Return the nested dict of arrays in a folder; empty if all leaves have size 0."""
    from orbax.checkpoint import v1 as ocp

    if not folder.exists():
        return {}
    try:
        with quiet():
            return ocp.load(str(folder))
    except Exception as error:
        raise DamagedError(f"orbax cannot read the {folder.name}: {str(error).splitlines()[0]}") from error
