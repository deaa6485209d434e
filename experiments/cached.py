"""Caches the results of experiments as JSON, so that interrupted ones can be resumed."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fft.commands.sweep import run_missing
from fft.disk.files import write_json
from fft.experiment import Experiment, completed
from fft.run.accept import resolved

FIELDS = ("name", "new", "original", "kept_step", "contract", "versions", "device", "seconds")
"""the fields of run.json that are stored"""


def cached(path: Path, measure: Callable[[], Any]) -> Any:
    """Return the JSON value in `path`; if there is none, measure and write it first.

    Only the file name identifies what was measured: use another folder for changed settings.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, measure())
    return json.loads(path.read_text(encoding="utf-8"))


def cached_runs(
    experiments: dict[str, Experiment],
    out: Path,
    results: Path,
    finish: Callable[[Experiment, Path, dict], dict] = lambda experiment, folder, record: record,
    fields: Sequence[str] = FIELDS,
) -> Iterator[dict[str, dict]]:
    """Run the experiments that `results`, a JSON file of records by name, lacks; yield all records after each run.

    A record has the `fields` of run.json, the percentage of trained parameters, and the experiment, in which the base
    is identified by its folder's name. If the experiment has changed, it is run again. `finish` may add to a run.json
    record from the run's folder, which is then deleted: only the file remains, and it is valid on any machine.
    """
    stored = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    records, known, console = {}, {}, Console()
    for name, experiment in experiments.items():
        described = portable(experiment)
        if name not in stored or completed(stored[name]["experiment"]) != described:
            finished = finish(experiment, out / name, run_missing({name: experiment}, out, console, known)[name])
            trained = finished["parameters"]["percent"]
            stored[name] = {field: finished[field] for field in fields} | {
                "percent_trained": trained,
                "experiment": described,
            }
            write_json(results, stored)
            shutil.rmtree(out / name)
        records[name] = stored[name]
        yield records


def portable(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as machine-independent JSON data, with the base's path reduced to the name of its run."""
    return resolved(experiment).to_json() | {"model": Path(experiment.model).parent.name}
