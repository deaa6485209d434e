"""Whether a checkpoint still does what another one could: both on the same examples, and a verdict.

check(CheckSettings("base/", "tuned/", SeveralData.of(Data("old.csv")), max_drop="0.01")).record["outcome"]
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fft.after.pair import Pair, ScoredPair, load_pair, scored
from fft.after.settings import CheckSettings, ScoredTask
from fft.disk.environment import environment
from fft.models.files.heads import alike
from fft.models.heads import chosen_head
from fft.models.identity import base_sha256
from fft.run.seen import Scored, seen_notes
from fft.stats.damage import by_label, further, newly
from fft.stats.intervals import change_between, interval, predictions
from fft.stats.records import CheckedTaskRecord, CheckRecord
from fft.stats.retention import EXIT_CODES, overall, verdict

FURTHEST = 100  # examples of a regression that are listed of those that moved
SAME = "both give the same outputs on every row, bit for bit: is {} the model that was to be checked?"


class Checked(NamedTuple):
    """What check.json says, and one dict an example: {"task", "source", "row", "label", "base", "tuned"}."""

    record: dict
    examples: list[dict]

    @property
    def exit_code(self) -> int:
        """0 all was kept, 1 something was lost, 4 undecided."""
        return EXIT_CODES[self.record["outcome"]]


def check(settings: CheckSettings) -> Checked:
    """Score both checkpoints on every task, and judge what was lost of each original one.

    Without a name the head of an original task is the base's classifier, and in the other checkpoint the head of that
    name, else its classifier. The new task's is the tuned one's classifier; it is not judged, and a base without the
    like of it has no score there.

    Raises: InputError for checkpoints that cannot be compared, a head that is not there, data that do not fit, and a
    budget that no drop could exceed.
    """
    pair = load_pair(settings.base, settings.tuned, settings.max_length)
    found = [("original", *_original(pair, task, settings)) for task in settings.originals]
    if settings.new_task:
        found.append(("new", *_new(pair, settings.new_task, settings)))
    record = CheckRecord(
        environment=environment(),
        outcome=overall([task.verdict.outcome for _, task, _ in found if task.verdict]),
        max_drop=str(settings.budget),
        base={"folder": pair.base.name, "sha256": base_sha256(pair.base.checkpoint)},
        tuned={"folder": pair.tuned.name, "sha256": base_sha256(pair.tuned.checkpoint)},
        held_out=settings.held_out,
        notes=[*pair.notes, *(f"{role}: {note}" for role, task, _ in found for note in task.notes)],
        original=[task for role, task, _ in found if role == "original"],
        new=next((task for role, task, _ in found if role == "new"), None),
    )
    examples = [{"task": role, "source": task.source, **line} for role, task, lines in found for line in lines]
    return Checked(record.to_json(), examples)


def _original(pair: Pair, task: ScoredTask, settings: CheckSettings) -> tuple[CheckedTaskRecord, list[dict]]:
    """The record of an original task, its verdict included, and its examples."""
    base_head = chosen_head(pair.base.checkpoint, task.head, pair.base.name, "to score with")
    like = base_head if base_head in pair.tuned.checkpoint.heads else None
    wanted = task.tuned_head or task.head or like
    tuned_head = chosen_head(pair.tuned.checkpoint, wanted, pair.tuned.name, "to score with")
    found = scored(pair, task.data, base_head, tuned_head, settings.held_out)
    record = _record(task.data.source, base_head, tuned_head, found)
    assert found.before is not None  # the base was asked with its head
    change = change_between(found.metric, found.labels, found.before, found.after)
    budget = settings.budget
    if change.undefined:  # a share of a score that is not defined is nothing
        margin = np.nan if budget.relative else budget.amount
    else:
        margin = budget.biting_margin(found.metric, change.before)
    if np.array_equal(found.before, found.after):
        record.notes.append(SAME.format(pair.tuned.name))
    record.notes.extend(_seen(pair, record, found, settings, "--original.test"))
    return replace(record, change=change, verdict=verdict(change, margin)), found.examples()


def _new(pair: Pair, task: ScoredTask, settings: CheckSettings) -> tuple[CheckedTaskRecord, list[dict]]:
    """The record of the new task and its examples."""
    tuned_head = chosen_head(pair.tuned.checkpoint, task.head, pair.tuned.name, "to score with")
    own = pair.base.checkpoint.heads.get(tuned_head)
    known = own is not None and alike(own, pair.tuned.checkpoint.heads[tuned_head])
    base_head = tuned_head if known else None
    found = scored(pair, task.data, base_head, tuned_head, settings.held_out)
    record = _record(task.data.source, base_head, tuned_head, found)
    if found.before is None:
        record.notes.append(f"{pair.base.name} has no head {tuned_head!r} with these labels, and so no score here")
    else:
        record = replace(record, change=change_between(found.metric, found.labels, found.before, found.after))
    record.notes.extend(_seen(pair, record, found, settings, "--new.test"))
    return record, found.examples()


def _seen(pair: Pair, record: CheckedTaskRecord, found: ScoredPair, settings: CheckSettings, flag: str) -> list[str]:
    """What runs behind either checkpoint have seen of the rows."""
    rows = Scored(found.data.keys["test"], record.source, record.sha256, settings.held_out, flag)
    return seen_notes((pair.base.name, pair.tuned.name), rows)


def _record(source: str, base_head: str | None, tuned_head: str, found: ScoredPair) -> CheckedTaskRecord:
    """What check.json says of a task, but for the change and the verdict."""
    metric, labels = found.metric, found.labels
    after = predictions(metric.kind, found.after)
    nothing = np.zeros(0, int)
    changed, worse, better = [], nothing, nothing
    if found.before is not None:
        before = predictions(metric.kind, found.before)
        if metric.kind == "classification":
            changed = by_label(labels, before, after, found.data.task.labels)
            worse, better = newly(labels, before, after)
        else:
            worse, better = (positions[:FURTHEST] for positions in further(labels, before, after))
    return CheckedTaskRecord(
        source=source,
        sha256=found.data.identity["test"]["sha256"],
        heads={"base": base_head, "tuned": tuned_head},
        score={"metric": metric.name, **interval(metric, labels, after)._asdict()},
        change=None,
        labels=changed,
        worse=found.changed(worse),
        better=found.changed(better),
        notes=[*found.notes],
    )
