"""The steps of a run on disk: saved whole, verified when read, with an older good step to fall back on.

    FOLDER/00000120/            one saved step; 00000120.1 when the same step is saved again
        arrays/                 orbax: the leaves of the tree by path, those that last
        rest/                   orbax: the others, which only a run that goes on needs
        extra.json              what the run keeps beside the arrays: history, counters
        manifest.json           path -> shape, dtype, sha256; file -> bytes, sha256; written last

A folder without a manifest is a save that did not finish: it does not count, and the next save removes it.
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
    Damaged,
    check_arrays,
    check_files,
    compare,
    folder_of,
    host_leaves,
    named,
    read_manifest,
    spec,
    without_rest,
    write_manifest,
)
from fft.disk.quiet import abandoned_writes_are_silent, quiet

Read = TypeVar("Read")


class Restored(NamedTuple):
    """`step`; `tree` in the structure asked for, its leaves jax arrays; `extra` as JSON gave it back."""

    step: int
    tree: Any
    extra: dict


class Entry(NamedTuple):
    """One saved step; entries sort by step, then by how often that step was saved."""

    step: int
    attempt: int
    folder: Path


class Checkpoints:
    """The saved steps under a folder. At most three are kept: the latest, the one before it, and the best.

    Only `save` and `reduce` write, so a notebook may read a run that is still training. `warnings` collects one line
    for each step that `restore` had to pass over.

        checkpoints = Checkpoints(run / 'checkpoints')
        checkpoints.save(120, {'theta': theta, 'opt_state': opt_state, 'key': key}, {'history': history}, best=80)
        step, tree, extra = checkpoints.restore(like)
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self.warnings: list[str] = []
        self._damaged: set[Path] = set()

    def steps(self) -> list[int]:
        """The steps whose save was finished, ascending; that they are good is known only when they are read."""
        return sorted({entry.step for entry in self._entries()})

    def save(self, step: int, tree: object, extra: dict, best: int | None = None, lasting: str | None = None) -> None:
        """Save a tree of arrays (dicts, tuples, NamedTuples; typed PRNG keys too) and a JSON object, and tidy up.

        Blocks until the step is on disk; killed at any moment, the steps before it stay good. `best` names the step
        to keep beside the two latest. Saving a step again replaces it once the new save is complete. `lasting` is the
        one part of the tree that `reduce` will leave; None: all of it.

        Raises: InputError for a key with a dot or slash, or a leaf jax cannot hold; MachineError when the disk is full
        or the folder cannot be written: nothing of the failed step is left then.
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
        """Leave these steps alone, and of each what was `lasting` when it was saved; its manifest says so.

        Killed at any moment, what lasts of each step can be read, and the next call ends the work. Where nothing is
        left to do, nothing is written. A step that was saved before it was known what lasts stays whole.

        Raises: MachineError when a manifest cannot be written; what goes for good has made room by then.
        """
        kept = {entry.step: entry for entry in self._entries() if entry.step in steps}
        going = {entry.folder for entry in _folders(self.folder)} - {entry.folder for entry in kept.values()}
        for folder in going.union(self.folder.glob("damaged-*")):
            _remove(folder)
        for entry in kept.values():
            _reduce(entry)

    def restore(self, like: object, step: int | None = None, part: bool = False) -> Restored:
        """Read the latest good step, or `step`, into the structure of `like` (arrays or `jax.ShapeDtypeStruct`s).

        `part`: the step may hold more than `like`. Every byte that is read is checked against the manifest. A damaged
        latest step is passed over with a line in `warnings`; a step asked for by number is never swapped for another.
        The leaves are arrays on the default device and, like those of a fresh state, not committed to it: a committed
        argument would compile every program anew.

        Raises: InputError with the difference by path when the step holds another tree than the one asked for, and
        when no good step is left.
        """
        specs = {path: spec(leaf) for path, leaf in named(like)}
        found, (arrays, extra) = self._first_good(step, lambda entry: _read(entry, specs, part))
        leaves = [_to_device(arrays.pop(path)) for path in specs]
        return Restored(found.step, jax.tree.unflatten(jax.tree.structure(like), leaves), extra)

    def read_extra(self, step: int | None = None) -> tuple[int, dict]:
        """The step and its `extra` alone, without the arrays; falls back and raises as `restore` does."""
        found, extra = self._first_good(step, lambda entry: _read_extra(entry, read_manifest(entry.folder)))
        return found.step, extra

    def _entries(self) -> list[Entry]:
        return [entry for entry in _folders(self.folder) if (entry.folder / MANIFEST).is_file()]

    def _first_good(self, step: int | None, read: Callable[[Entry], Read]) -> tuple[Entry, Read]:
        wanted = [entry for entry in reversed(_folders(self.folder)) if step is None or entry.step == step]
        troubles = []
        for entry in wanted:
            try:
                return entry, read(entry)
            except Damaged as error:
                troubles.append(f"step {entry.step} in {entry.folder} is passed over: {error}")
                self.warnings.append(troubles[-1])
                self._damaged.add(entry.folder)
        others = [other for other in self.steps() if other != step]
        raise InputError(
            "\n  ".join(
                [
                    f"no good checkpoint{'' if step is None else f' of step {step}'} in {self.folder}",
                    *troubles,
                    f"other steps there: {', '.join(map(str, others))}"
                    if step is not None and others
                    else f"remove {self.folder} to start again, or choose a new folder",
                ]
            )
        )

    def _tidy(self) -> None:
        """Remove saves that did not finish, and move steps found damaged out of the way."""
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
        kept = {*older[-1:], *[entry for entry in older if entry.step == best][-1:]}
        for entry in older:
            if entry not in kept:
                _remove(entry.folder)


def _folders(folder: Path) -> list[Entry]:
    """Every folder named like a step, finished or not, ascending."""
    matches = [(re.fullmatch(r"(\d{8,})(?:\.(\d+))?", path.name), path) for path in folder.glob("*")]
    return sorted(Entry(int(match[1]), int(match[2] or 0), path) for match, path in matches if match)


def _remove(folder: Path) -> None:
    """Delete a step, its manifest first: killed half-way, what is left does not count as a step."""
    with contextlib.suppress(OSError):
        (folder / MANIFEST).unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _reduce(entry: Entry) -> None:
    """Delete what does not last of a step, its manifest's share first. A damaged step stays as it is."""
    with contextlib.suppress(Damaged):
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
    """Orbax, without compression (it takes three times as long for 8 %) and without a second copy of the arrays."""
    from orbax.checkpoint import v1 as ocp

    nested: dict = {}
    for path, value in values.items():
        if value.size:  # orbax refuses zero-size leaves; their shape in the manifest says all there is
            *parents, name = path.split("/")
            node = nested
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = value
    if not nested:
        return
    context = ocp.Context()
    context.array.saving.use_compression = False
    # Orbax finds the parts of a database to merge by a pattern, which [, * or ? in a folder's name would be part of;
    # what it merges then is nothing, without a word. A file for each array needs no merging.
    context.array.saving.use_ocdbt = glob.escape(str(folder)) == str(folder)
    context.memory.deepcopy_host_arrays = False
    # Made on the side, a folder that cannot be made leaves threads waiting for it, and the interpreter for them.
    context.asynchronous.create_directories_asynchronously = False
    try:
        with quiet(), abandoned_writes_are_silent(), context:
            ocp.save(str(folder), nested)
    except Exception as error:
        # tensorstore gives the system's error as text inside a ValueError
        if match := re.search(r"os_error_code='(\d+)'", str(error)):
            code = int(match[1])
            raise cannot_write(folder, OSError(code, os.strerror(code))) from error
        raise


# --- reading ---


def _read(entry: Entry, specs: dict, part: bool) -> tuple[dict, dict]:
    """({path: (value, row)}, extra), every hash checked; the manifest is compared with what is asked for first."""
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
        flat |= dict(named(_load_folder(entry.folder / folder)))
    lost = [path for path, row in rows.items() if path not in flat and 0 not in row["shape"]]
    if lost:
        raise Damaged(f"orbax did not give back {', '.join(lost)}")
    return {
        path: (flat[path] if path in flat else np.zeros(row["shape"], row["dtype"]), row) for path, row in rows.items()
    }


def _load_folder(folder: Path) -> dict:
    """The nested dict of arrays in a folder; an empty one where all leaves are of size 0."""
    from orbax.checkpoint import v1 as ocp

    if not folder.exists():
        return {}
    try:
        with quiet():
            return ocp.load(str(folder))
    except Exception as error:
        raise Damaged(f"orbax cannot read the {folder.name}: {str(error).splitlines()[0]}") from error
