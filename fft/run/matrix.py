"""sequence.json: the scores of a sequence's models on the test rows of all its tasks."""

from pathlib import Path

import numpy as np

from fft import models
from fft.core.tree import Params
from fft.data import TaskData
from fft.disk.environment import environment
from fft.disk.folder import MODEL
from fft.evaluate.heldout import HeldOut
from fft.models import Checkpoint
from fft.run.heads import load_heads
from fft.run.settings import SequenceSettings
from fft.stats.intervals import predictions
from fft.stats.metrics import METRICS
from fft.stats.records import SequenceRecord, SequenceTaskRecord, StageRecord
from fft.stats.retention import overall
from fft.stats.transfer import Answered, matrix_of, measures

NO_FORWARD = (
    "no forward transfer: with a head of its own a task has no score before it is learned; --head shared has one"
)
SHARED_START = "row base: the shared head before the first step of the first task"


def sequence_record(
    settings: SequenceSettings, data: dict[str, TaskData], base: Checkpoint, stages: list[dict], out: Path
) -> dict:
    """Return the content of sequence.json; `stages` are the records of the stages' runs."""
    answered = _answered(settings, data, base, out)
    transfer = measures(answered)
    verdicts = [stage["verdict"]["outcome"] for stage in stages if stage["verdict"]]
    broken = ["fail" for stage in stages if stage["contract"] and not stage["contract"]["met"]]
    fresh = settings.head == "shared" and base.head(next(iter(data.values())).task.name) is None
    notes = [*base.notes] + [SHARED_START] * fresh + [NO_FORWARD] * (settings.head == "new" and not base.language)
    notes += next(iter(data.values())).tokenizer_notes
    notes += [f"{name}: {note}" for name, task in data.items() for note in task.warnings]
    return SequenceRecord(
        environment=environment(),
        name=settings.method.label,
        outcome=overall([*verdicts, *broken] or ["pass"]),
        plan=settings.to_json(),
        tasks=[
            SequenceTaskRecord(
                name=name,
                source=spec.source,
                head=task.task.name,
                metric=task.task.metric,
                n=len(task.splits["test"].labels),
                sha256=task.identity["test"]["sha256"],
            )
            for (name, task), spec in zip(data.items(), settings.tasks, strict=True)
        ],
        rows=["base", *(f"after {name}" for name in data)],
        matrix=matrix_of(answered),
        average_accuracy=transfer["average_accuracy"],
        backward_transfer=transfer["backward_transfer"],
        forward_transfer=transfer["forward_transfer"],
        forgetting=transfer["forgetting"],
        stages=[
            _stage(stage, number, [spec.source for spec in settings.original] + list(data)[: number - 1])
            for number, stage in enumerate(stages, 1)
        ],
        notes=notes,
        seconds=sum(stage["seconds"]["total"] for stage in stages),
    ).to_json()


def _stage(record: dict, number: int, earlier: list[str]) -> StageRecord:
    """Return a stage's part of sequence.json; `earlier` are the names of its original tasks."""
    verdicts = zip(earlier, record["verdicts"].values(), strict=True)
    return StageRecord(
        folder=f"stage-{number}",
        seconds=record["seconds"]["total"],
        lost={task: verdict["drop"] for task, verdict in verdicts if verdict["outcome"] == "fail"},
        name=record["name"],
        kept_step=record["kept_step"],
        verdict=record["verdict"],
        verdicts=record["verdicts"],
        contract=record["contract"],
        notes=record["notes"],
    )


def _answered(settings: SequenceSettings, data: dict[str, TaskData], base: Checkpoint, out: Path) -> list[Answered]:
    """Return the predictions of the base and of each stage's model on every task; None where it has no head for it."""
    held_out = HeldOut(base.model, data)
    shared, language = settings.head == "shared" or base.language, base.language
    first = load_heads(base, out / "stage-1" / "heads").params if shared and not language else base.params
    predicted: dict[str, list[np.ndarray | None]] = {name: [] for name in data}
    for row in range(len(data) + 1):
        params = models.load(str(out / f"stage-{row}" / MODEL), language).params if row else first
        known = [name for at, name in enumerate(data, 1) if shared or at <= row]
        logits = held_out.logits(params if language else _with_heads(params, data, known), "test", known)
        for name, task in data.items():
            predicted[name].append(predictions(METRICS[task.task.metric].kind, logits[name]) if name in known else None)
    return [
        Answered(METRICS[task.task.metric], task.splits["test"].labels, predicted[name]) for name, task in data.items()
    ]


def _with_heads(params: Params, data: dict[str, TaskData], names: list[str]) -> Params:
    """Return the parameters with only the heads of some tasks; trees with the same heads share a compiled program."""
    return {**params, "heads": {data[name].task.name: params["heads"][data[name].task.name] for name in names}}
