"""Check whether a tuned checkpoint has lost what its base could do: score both on the same examples and judge the drop.

check(CheckSettings("base/", "tuned/", SeveralData.of(Data("old.csv")), max_drop="0.01")).record["outcome"]
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fft.after.pair import Pair, ScoredPair, load_pair, score_pair
from fft.after.settings import CheckSettings, ScoredTask
from fft.after.tokens import vocabulary_notes
from fft.after.written import divergence, side_by_side
from fft.data.settings import Data, predicts_tokens
from fft.disk.environment import environment
from fft.models.files.heads import alike
from fft.models.heads import chosen_head
from fft.models.identity import base_sha256
from fft.run.seen import Scored, seen_notes
from fft.stats.budget import Budget
from fft.stats.damage import by_label, further, newly
from fft.stats.intervals import change_between, interval, predictions
from fft.stats.records import CheckedTaskRecord, CheckRecord
from fft.stats.retention import EXIT_CODES, overall, verdict

FURTHEST = 100  # most examples of a regression that are listed as worse or better
SAME = "both give the same outputs on every row, bit for bit: is {} the model that was to be checked?"


class Checked(NamedTuple):
    """The content of check.json, and a dict for each example: {"task", "source", "row", "label", "base", "tuned"}."""

    record: dict
    examples: list[dict]

    @property
    def exit_code(self) -> int:
        """0: every original task was preserved; 1: one was not; 4: undecided."""
        return EXIT_CODES[self.record["outcome"]]


def check(settings: CheckSettings) -> Checked:
    """Score both checkpoints on every task, and judge the drop of each original task.

    Unless named, the head of an original task is the base's classifier, and in the tuned checkpoint the head of the
    same name, else its classifier. The head of the new task is the tuned checkpoint's classifier. The new task is not
    judged, and a base without a matching head has no score on it.

    Raises: InputError for checkpoints that cannot be compared, tokenizers that differ, a head that is not there, data
    that do not fit, and a budget that no drop could exceed.
    """
    tasks = [task.data for task in (*settings.originals, settings.new_task) if task]
    pair = load_pair(settings.base, settings.tuned, settings.max_length, predicts_tokens(tasks))
    words = vocabulary_notes(pair.names, pair.base.tokenizer(), pair.tuned.tokenizer()) if pair.language else []
    checked = [("original", *_original(pair, task, settings)) for task in settings.originals]
    if settings.new_task:
        checked.append(("new", *_new(pair, settings.new_task, settings)))
    record = CheckRecord(
        environment=environment(),
        outcome=overall([task.verdict.outcome for _, task, _ in checked if task.verdict]),
        max_drop=str(Budget.parse(settings.max_drop)),
        base={"folder": pair.base.name, "sha256": base_sha256(pair.base.checkpoint)},
        tuned={"folder": pair.tuned.name, "sha256": base_sha256(pair.tuned.checkpoint)},
        held_out=settings.held_out,
        notes=[*pair.notes, *words, *(f"{role}: {note}" for role, task, _ in checked for note in task.notes)],
        original=[task for role, task, _ in checked if role == "original"],
        new=next((task for role, task, _ in checked if role == "new"), None),
    )
    examples = [{"task": role, "source": task.source, **line} for role, task, lines in checked for line in lines]
    return Checked(record.to_json(), examples)


def _original(pair: Pair, task: ScoredTask, settings: CheckSettings) -> tuple[CheckedTaskRecord, list[dict]]:
    """Score and judge an original task; return its record and its examples."""
    language = predicts_tokens([task.data])
    base_head = chosen_head(pair.base.checkpoint, task.head, pair.base.name, "to score with", language)
    same_name = base_head if pair.tuned.checkpoint.head(base_head) else None
    requested = task.tuned_head or task.head or same_name
    tuned_head = chosen_head(pair.tuned.checkpoint, requested, pair.tuned.name, "to score with", language)
    scores = score_pair(pair, task.data, base_head, tuned_head, settings.held_out)
    record = _record(pair, task.data, base_head, tuned_head, scores)
    assert scores.before is not None  # the base has a head here
    change = change_between(scores.metric, scores.labels, scores.before, scores.after)
    budget = Budget.parse(settings.max_drop)
    if change.undefined:  # then a share of the score is undefined as well
        margin = np.nan if budget.relative else budget.amount
    else:
        margin = budget.biting_margin(scores.metric, change.before)
    if np.array_equal(scores.before, scores.after):
        record.notes.append(SAME.format(pair.tuned.name))
    record.notes.extend(_seen_notes(pair, record, scores, settings, "--original.test"))
    return replace(record, change=change, verdict=verdict(change, margin)), scores.examples()


def _new(pair: Pair, task: ScoredTask, settings: CheckSettings) -> tuple[CheckedTaskRecord, list[dict]]:
    """Score the new task; return its record and its examples."""
    language = predicts_tokens([task.data])
    tuned_head = chosen_head(pair.tuned.checkpoint, task.head, pair.tuned.name, "to score with", language)
    own, its = pair.base.checkpoint.head(tuned_head), pair.tuned.checkpoint.head(tuned_head)
    known = own is not None and its is not None and alike(own, its)
    base_head = tuned_head if known else None
    scores = score_pair(pair, task.data, base_head, tuned_head, settings.held_out)
    record = _record(pair, task.data, base_head, tuned_head, scores)
    if scores.before is None:
        record.notes.append(f"{pair.base.name} has no head {tuned_head!r} with these labels, and so no score here")
    else:
        record = replace(record, change=change_between(scores.metric, scores.labels, scores.before, scores.after))
    record.notes.extend(_seen_notes(pair, record, scores, settings, "--new.test"))
    return record, scores.examples()


def _seen_notes(
    pair: Pair, record: CheckedTaskRecord, scores: ScoredPair, settings: CheckSettings, flag: str
) -> list[str]:
    """Return a note for each run behind either checkpoint that has seen some of the rows."""
    rows = Scored(scores.data.keys["test"], record.source, record.sha256, settings.held_out, flag)
    return seen_notes((pair.base.name, pair.tuned.name), rows)


def _record(pair: Pair, task: Data, base_head: str | None, tuned_head: str, scores: ScoredPair) -> CheckedTaskRecord:
    """Return a task's part of check.json, without the change and the verdict."""
    metric, labels = scores.metric, scores.labels
    after = predictions(metric.kind, scores.after)
    nothing = np.zeros(0, int)
    changed, worse, better = [], nothing, nothing
    if scores.before is not None:
        before = predictions(metric.kind, scores.before)
        if metric.discrete:
            changed = by_label(labels, before, after, scores.data.task.labels) if scores.data.task.labels else []
            worse, better = newly(labels, before, after)
        else:
            # A loss is better the nearer it is to 0, a regression the nearer it is to the target.
            targets = np.zeros(len(labels)) if metric.kind == "language" else labels
            errors = scores.of_examples(scores.before), scores.of_examples(scores.after)
            worse, better = (positions[:FURTHEST] for positions in further(targets, *errors))
    return CheckedTaskRecord(
        source=task.source,
        sha256=scores.data.identity["test"]["sha256"],
        heads={"base": base_head, "tuned": tuned_head},
        score={"metric": metric.name, **interval(metric, labels, after)._asdict()},
        change=None,
        labels=changed,
        worse=scores.changed(worse),
        better=scores.changed(better),
        divergence=divergence(pair, scores),
        samples=side_by_side(pair, scores, task.max_new),
        notes=[*scores.notes],
    )
