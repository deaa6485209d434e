"""Sequences: one run for each task, from the model of the stage before, with all earlier tasks as its originals.

OUT/plan.json          the settings
    stage-1/ …         the run of each task
    fisher/1/ …        with gamma: the Fisher information of all tasks so far, before each further stage
    sequence.html matrix.svg matrix.png
    sequence.json      the results; its presence means that the sequence is finished
"""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from fft import models
from fft.core.errors import InputError
from fft.core.naming import ORIGINAL, UNEMBED, numbered, original_names
from fft.core.settings import validated
from fft.data import TaskData, head_of, prepare
from fft.data.settings import predicts_tokens, with_kind
from fft.disk.files import plain, read_object
from fft.disk.folder import (
    EXPERIMENT,
    MODEL,
    PLAN,
    FolderLock,
    agree,
    refuse_foreign,
    refuse_taken,
    unclaimed_if_refused,
)
from fft.disk.local import local
from fft.experiment import Data, Experiment, Optim, Retention, Texts
from fft.methods import Full, Method, chain
from fft.methods import from_json as method_from_json
from fft.methods.informed import Informed
from fft.models.heads import chosen_head, unused_head
from fft.run.base import load_for
from fft.run.settings import FisherSettings, SequenceSettings
from fft.run.watched import check_budget

RESULT = "sequence.json"


def completed(data: dict[str, Any]) -> dict[str, Any]:
    """Return plan.json with defaults for the settings that it lacks, like `fft.experiment.completed`."""
    kinds = {"tasks": tuple[Data, ...], "original": tuple[Data, ...], "optim": Optim, "retention": Retention}
    try:
        parts = {name: validated(kind, data[name], PLAN) for name, kind in kinds.items() if name in data}
        unlabelled = validated(Texts | None, data.get("unlabelled"), PLAN)
        method = method_from_json(data["method"], PLAN)
        return plain(SequenceSettings(**(data | parts | {"unlabelled": unlabelled, "method": method})).to_json())
    except (InputError, KeyError, TypeError):
        return data


class Shows:
    """Context manager that receives the events of a stage; this one ignores them."""

    def __enter__(self) -> "Shows":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, event: dict) -> None:
        """Receive an event of a run."""


class Sequence(NamedTuple):
    """A finished sequence: its folder and the content of sequence.json."""

    directory: Path
    record: dict

    @property
    def exit_code(self) -> int:
        """0: every stage preserved all earlier tasks; 1: one did not; 4: undecided."""
        from fft.stats.retention import EXIT_CODES

        return EXIT_CODES[self.record["outcome"]]


def run_sequence(
    settings: SequenceSettings, out: str | Path, shows: Callable[[str], AbstractContextManager] = lambda title: Shows()
) -> Sequence:
    """Learn the tasks one after the other and write everything to `out`; an interrupted sequence is resumed.

    `shows(title)` returns the context manager that receives the events of a stage.

    Raises: InputError for input that does not fit, before anything trains; else as `fft.run.run.run`.
    """
    from fft.report.sequenced import write
    from fft.run.matrix import sequence_record

    tasks, originals = (tuple(map(with_kind, data)) for data in (settings.tasks, settings.original))
    settings = dataclasses.replace(settings, tasks=tasks, original=originals)
    out = Path(local(out, "--out"))
    refuse_foreign(out, PLAN)
    if (out / PLAN).exists():
        agree(out / PLAN, settings.to_json(), "another sequence", completed)
        if (out / RESULT).exists():
            return Sequence(out, read_object(out / RESULT))
    else:
        refuse_taken(out)
    names, data, checkpoint = _read(settings)
    with FolderLock(out), unclaimed_if_refused(out, PLAN, unless=f"stage-1/{EXPERIMENT}"):
        agree(out / PLAN, settings.to_json(), "another sequence", completed)
        records: list[dict] = []
        for number in range(1, len(settings.tasks) + 1):
            with shows(f"stage {number}/{len(settings.tasks)}: ") as shown:
                records.append(_stage(settings, names, records, out, checkpoint.primary is not None, shown.show))
        record = sequence_record(settings, data, checkpoint, records, out)
        write(record, out)
    return Sequence(out, record)


def _read(settings: SequenceSettings) -> tuple[list[str], dict[str, TaskData], models.Checkpoint]:
    """Load the name of each task's head, the data by task name (task_1, …), and the base; nothing is written."""
    language = predicts_tokens(settings.tasks)
    checkpoint = load_for(settings.model, settings.tasks)
    if language:
        names, head = [UNEMBED] * len(settings.tasks), checkpoint.head(UNEMBED)
    elif settings.head == "shared":
        names, head = _shared_head(settings, checkpoint)
    else:
        names, head = [], None
        for number, task in enumerate(settings.tasks, 1):
            names.append(unused_head(task.name, task.name or f"task_{number}", [*checkpoint.heads, *names]))
    data: dict[str, TaskData] = {}
    for task, name, column in zip(settings.tasks, names, numbered_tasks(len(names)), strict=True):
        data[column] = prepare(task, checkpoint, name, head, seed=settings.seed, max_length=settings.max_length)
        if settings.head == "shared" and not language:
            head = head_of(data[column].task)
    for budget in settings.retention.drops:
        for earlier in list(data.values())[:-1]:
            check_budget(budget, earlier)
    return names, data, checkpoint


def numbered_tasks(count: int) -> list[str]:
    """Return the names of the tasks: task_1, task_2, …"""
    return [f"task_{number}" for number in range(1, count + 1)]


def _shared_head(settings: SequenceSettings, checkpoint: models.Checkpoint) -> tuple[list[str], models.Head | None]:
    """Return the name of the shared head, once for each task, and the head: that of the first original task, or None
    if the first task of the sequence creates it.
    """
    count, taken = len(settings.tasks), list(checkpoint.heads)
    options = {"seed": settings.seed, "max_length": settings.max_length}
    if not settings.original:
        return [unused_head(settings.tasks[0].name, "shared", taken)] * count, None
    first, requested = settings.original[0], next(iter(settings.original_head), None)
    if requested == "fit":
        name = unused_head(first.name, "original", taken)
        return [name] * count, head_of(prepare(first, checkpoint, name, None, **options).task)
    name = chosen_head(checkpoint, requested, settings.model, "to share")
    return [name] * count, checkpoint.heads[name]


def _stage(
    settings: SequenceSettings,
    names: list[str],
    before: list[dict],
    out: Path,
    has_head: bool,
    show: Callable[[dict], None],
) -> dict:
    """Run the next stage, unless it is finished, and return its record."""
    from fft.run.run import run

    number = len(before) + 1
    earlier = (*settings.original, *settings.tasks[: number - 1])
    method = settings.method if earlier else without_original(settings.method, has_head)
    if method is not settings.method:
        show({"event": "say", "text": f"there is no task to preserve yet: {method.label} learns the first task"})
    if earlier:
        originals = zip(numbered(ORIGINAL, len(earlier)), earlier, strict=True)
        text = "tasks to preserve: " + ", ".join(f"{name} is {data.source}" for name, data in originals)
        show({"event": "say", "text": text})
    previous = str(out / f"stage-{number - 1}") if before else None
    gamma = settings.gamma if earlier else None
    fisher = None if gamma is None else _fisher(settings, gamma, names, out, number, show)
    taken = before[0]["data"] if before else {}
    heads = tuple(taken[name]["head"] for name in original_names(taken)) + tuple(names[: number - 1])
    fresh = settings.head == "new" or not earlier
    named = fresh and UNEMBED not in names
    experiment = Experiment(
        f"{previous}/{MODEL}" if previous else settings.model,
        dataclasses.replace(settings.tasks[number - 1], name=names[number - 1] if named else None),
        earlier,
        method.continued(previous, fisher),
        settings.optim,
        settings.retention if earlier else dataclasses.replace(settings.retention, max_drop=()),
        "new" if fresh else "shared",
        settings.original_head if not before or UNEMBED in names else heads,
        settings.max_length,
        settings.seed,
        settings.unlabelled if "unlabelled" in method.streams else None,
        settings.computation,
    )
    return run(experiment, out / f"stage-{number}", show).record


def without_original(method: Method, has_head: bool) -> Method:
    """Return the members of a method that need no original data, or full fine-tuning if there are none.

    `has_head`: whether the base has a head whose predictions can be preserved without data of its task.
    """
    usable = [m for m in method.members if "original" not in m.needs and (has_head or "head" not in m.needs)]
    return method if len(usable) == len(method.members) else chain(*(usable or [Full()]))


def _fisher(
    settings: SequenceSettings, decay: float, names: list[str], out: Path, number: int, show: Callable[[dict], None]
) -> str:
    """Measure the Fisher information of all tasks before stage `number`, as in online EWC, and return its folder.

    F ← γ F + F_j with the information F_j of a task j at the model that has just learned it; original tasks are added
    up at the base. Reference: Schwarz et al. 2018, arXiv 1805.06370, section 3.
    """
    from fft.run.fisher import measure

    reader = next(member for member in settings.method.members if isinstance(member, Informed))
    language = predicts_tokens(settings.tasks)
    checkpoint = models.load(settings.model, language)
    heads = Experiment(settings.model, settings.tasks[0], settings.original, original_head=settings.original_head)
    known = [
        (settings.model, data, chosen_head(checkpoint, head, settings.model, "to measure", language), 1.0)
        for data, head in zip(settings.original, heads.original_heads, strict=True)
    ]
    learned = [
        (str(out / f"stage-{at}" / MODEL), settings.tasks[at - 1], names[at - 1], decay) for at in range(1, number)
    ]
    previous = None
    for at, (model, data, head, gamma) in enumerate([*known, *learned], 1):
        folder = out / "fisher" / str(at)
        fisher_settings = FisherSettings(
            model=model,
            original=data,
            head=None if language else head,
            max_length=settings.max_length,
            estimate=reader.fisher_pass,
            storage=reader.fisher_storage,
            previous=previous,
            gamma=gamma if previous else 1.0,
            seed=settings.seed,
        )
        measure(fisher_settings, folder, lambda text: show({"event": "say", "text": text}))
        previous = folder
    return str(previous)
