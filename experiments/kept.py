"""What an experiment has measured so far, as JSON: one that was killed goes on where it was."""

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
"""what is kept of a run's run.json"""


def kept(path: Path, measure: Callable[[], Any]) -> Any:
    """The JSON value in `path`, measured and written first where there is none.

    The name of the file is all that says what was measured: for changed settings name another folder.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, measure())
    return json.loads(path.read_text(encoding="utf-8"))


def kept_runs(
    experiments: dict[str, Experiment],
    out: Path,
    results: Path,
    finish: Callable[[Experiment, Path, dict], dict] = lambda experiment, folder, record: record,
    fields: Sequence[str] = FIELDS,
) -> Iterator[dict[str, dict]]:
    """Run what `results`, a JSON object of records by name, does not hold; yield all records so far after each run.

    A record is the `fields` of run.json, the per cent of the parameters that were trained, and the experiment, its base
    by the folder's name alone; one of another experiment is measured again. `finish` may add to run.json's, with the
    run's folder at hand, which is then deleted: the file is all that is kept, and holds on any machine.
    """
    held = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    records, known, console = {}, {}, Console()
    for name, experiment in experiments.items():
        asked = asked_for(experiment)
        if name not in held or completed(held[name]["experiment"]) != asked:
            made = finish(experiment, out / name, run_missing({name: experiment}, out, console, known)[name])
            trained = made["parameters"]["percent"]
            held[name] = {field: made[field] for field in fields} | {"percent_trained": trained, "experiment": asked}
            write_json(results, held)
            shutil.rmtree(out / name)
        records[name] = held[name]
        yield records


def asked_for(experiment: Experiment) -> dict[str, Any]:
    """The experiment as JSON data that says the same on every machine: of the base only the name of its run."""
    return resolved(experiment).to_json() | {"model": Path(experiment.model).parent.name}
