"""Which rows a model has seen: rows that it was trained on, and rows by which its step was selected.

A run writes RUN/rows/: the 16-byte keys (fft.data.text_keys) of both kinds. For merged and repaired models, and for
runs that started from another run's model, the runs behind them are found through the folders in their records.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fft.core.naming import agreeing, counted, original_names
from fft.disk.artefact import load_artefact, save_artefact
from fft.disk.files import read_object
from fft.disk.folder import ADAPTER, EXPERIMENT, MODEL, ROWS
from fft.disk.local import FETCHED
from fft.run.heads import fitting_note
from fft.run.job import Job

FINISHED, MERGED, REPAIRED = "run.json", "merge.json", "repair.json"
TRAINED, CHOOSING = "trained", "choosing"


def save_rows(job: Job, directory: Path) -> None:
    """Write RUN/rows/: the keys of the rows that the run was trained on, and of those that selected its model."""
    experiment, originals = job.experiment, original_names(job.data)
    method, settings = experiment.method, experiment.retention
    read = "original" in method.needs or experiment.budgets or fitting_note(directory / "heads")
    trained = [name for name in job.data if read or name not in originals]
    chooses = settings.keep == "best" or settings.patience or experiment.budgets
    keys = {
        TRAINED: [key for name in trained for key in job.data[name].keys["train"]],
        CHOOSING: [key for name in job.tasks for key in job.data[name].keys["validation"]] if chooses else [],
    }
    tree = {kind: np.frombuffer(b"".join(parts), np.uint8).reshape(-1, 16) for kind, parts in keys.items()}
    save_artefact(directory / ROWS, tree, {"keys": "blake2b of the text, 16 bytes"})


class Scored(NamedTuple):
    """Rows to be scored: their texts' keys, and the source and hash by which records name them."""

    keys: Sequence[bytes]
    source: str
    sha256: str
    held_out: bool
    """whether they are the test rows that `fft tune` holds out"""
    flag: str
    """the flag by which the user can name other rows of the task"""


def seen_notes(models: Iterable[str], rows: Scored) -> list[str]:
    """Return a note for each run behind the models that has seen some of the rows.

    A run without RUN/rows/, which is older than that folder, gets a note if it had the same source and another test
    split of it.
    """
    runs: dict[Path, str] = {}
    notes: list[str] = []
    for model in models:
        for run in _runs_behind(model):
            if isinstance(run, Missing):
                notes.append(
                    f"the record of {run.child} names {run.parent}, which does not exist: whether it was trained on "
                    "these rows is not known"
                )
            else:
                runs.setdefault(run.resolve(), str(run))
    notes += (note for run in runs.values() if (note := _note(Path(run), rows)))
    return list(dict.fromkeys(notes))


class Missing(NamedTuple):
    """A model (parent) that another one's record names and that does not exist any more."""

    child: str
    parent: str


def _runs_behind(model: str, met: frozenset[Path] = frozenset()) -> Iterator[Path | Missing]:
    """Yield the finished runs that a model's weights come from, and the models that are missing."""
    folder = Path(model)
    if folder.name in (MODEL, ADAPTER) and any((folder.parent / name).is_file() for name in (FINISHED, REPAIRED)):
        folder = folder.parent
    if folder.resolve() in met:
        return
    met |= {folder.resolve()}
    if (folder / FINISHED).is_file():
        yield folder
    for parent in _parents(folder):
        if Path(parent).exists():
            yield from _runs_behind(parent, met)
        elif not FETCHED.match(parent):
            yield Missing(str(folder), parent)


def _parents(folder: Path) -> list[str]:
    """Return the models that a model was made from, as its record names them."""
    if (folder / FINISHED).is_file():
        base = read_object(folder / EXPERIMENT, ("new",))["model"]
        return [base] if Path(base).exists() else []  # most bases are plain checkpoints, and free to go
    for name in (MERGED, REPAIRED):
        if (folder / name).is_file():
            record = read_object(folder / name)
            return [parent["folder"] for parent in (record["base"], *_listed(record["tuned"]))]
    return []


def _listed(tuned: Any) -> list[dict[str, Any]]:
    return tuned if isinstance(tuned, list) else [tuned]


def _note(run: Path, rows: Scored) -> str | None:
    """Return the note for rows that a run has seen, or None if it has seen none."""
    if not (run / ROWS).is_dir():
        return _old_note(run, rows)
    tree, _ = load_artefact(run / ROWS)
    known = {kind: {key.tobytes() for key in np.asarray(tree[kind])} for kind in (TRAINED, CHOOSING)}
    trained, choosing = (sum(key in known[kind] for key in rows.keys) for kind in (TRAINED, CHOOSING))
    parts = [f"{trained:,} {agreeing(trained, 'was', 'were')} trained on in {run}"] if trained else []
    if choosing:
        parts.append(f"{choosing:,} chose the step that {'it' if trained else run} keeps")
    if not parts:
        return None
    of_these = f"of these {counted(len(rows.keys), 'row')} {' and '.join(parts)}"
    return f"{of_these}, so the score says little about other texts: {_advice(rows)}"


def _old_note(run: Path, rows: Scored) -> str | None:
    tasks = [task for task in read_object(run / FINISHED)["data"].values() if task["source"] == rows.source]
    hashes = {task["splits"].get("test", {}).get("sha256") for task in tasks}
    if not tasks or rows.sha256 in hashes:
        return None
    return (
        f"{run} had {rows.source} among its data, and these are not the rows that it held out for its test; it is too "
        f"old to record how many of them it was trained on: {_advice(rows)}"
    )


def _advice(rows: Scored) -> str:
    others = f"name rows that it has not seen with {rows.flag}"
    return others if rows.held_out else f"give --held-out, or {others}"
