"""Two checkpoints that may be compared example by example, and their scores on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np

from fft.core.errors import InputError
from fft.data import Encoded, Rows, TaskData, prepare_scored, read_scored
from fft.data.tokenize import first_difference, load_tokenizer
from fft.evaluate.answers import answers
from fft.evaluate.predict import Predictor, make_predict, scored_logits
from fft.experiment import Data
from fft.models import Checkpoint
from fft.models.files.config import ONLY_TRAINING
from fft.models.files.heads import alike
from fft.models.heads import only_head
from fft.run.restored import Length, load_checkpoint, scored_length
from fft.stats.intervals import predictions
from fft.stats.metrics import METRICS, Metric
from fft.stats.records import ExampleRecord
from fft.tasks import Task

SCORED = "scored"  # what a head is called while it is scored, so that one compiled program serves both checkpoints


class Side(NamedTuple):
    """A checkpoint and what the user calls it."""

    name: str
    checkpoint: Checkpoint


class Pair(NamedTuple):
    """Two checkpoints of one family and shape, the programs that score either, one a kind of task, and the length at
    which both read texts.
    """

    base: Side
    tuned: Side
    predictors: dict[type, Predictor]
    length: Length

    def predictor(self, task: Task) -> Predictor:
        """What scores the head SCORED of either for tasks of this kind."""
        if type(task) not in self.predictors:
            self.predictors[type(task)] = make_predict(self.base.checkpoint.model, task.with_head(SCORED))
        return self.predictors[type(task)]

    @property
    def notes(self) -> list[str]:
        """What is to be told of the files of both, and of the length."""
        return [*self.base.checkpoint.notes, *self.tuned.checkpoint.notes, *self.length.notes]


class ScoredPair(NamedTuple):
    """N rows of text, their encoded task, and the scores (Task.score) before, after [N, W] of the two.

    before is None where the base has no head for the task. `notes` tell of the rows, and of both tokenizers.
    """

    rows: Rows
    data: TaskData
    before: np.ndarray | None
    after: np.ndarray
    notes: tuple[str, ...]

    @property
    def metric(self) -> Metric:
        """What the task is scored by."""
        return METRICS[self.data.task.metric]

    @property
    def labels(self) -> np.ndarray:
        """Class numbers or targets [N]."""
        return self.data.splits["test"].labels

    def examples(self) -> list[dict]:
        """{"row", "label", "base", "tuned"} of every example; the answers of each are {"prediction", "logits"}."""
        scored = self.data.splits["test"]
        tuned = answers(self.data.task, scored, self.after)
        base = [None] * len(tuned) if self.before is None else answers(self.data.task, scored, self.before)
        return [
            {
                "row": after["row"],
                "label": after["label"],
                **{side: one and _answer(one) for side, one in (("base", before), ("tuned", after))},
            }
            for before, after in zip(base, tuned, strict=True)
        ]

    def changed(self, positions: np.ndarray) -> list[ExampleRecord]:
        """The examples at these positions, with the answers of both; no positions where the base has none."""
        task, kind = self.data.task, self.metric.kind
        if self.before is None:
            return []
        before, after = (predictions(kind, logits) for logits in (self.before, self.after))
        return [
            ExampleRecord(
                row=int(self.rows.numbers[at]),
                text=self.rows.texts[at],
                pair=self.rows.pairs[at] if self.rows.pairs else None,
                label=task.called(float(self.labels[at])),
                base=task.called(float(before[at])),
                tuned=task.called(float(after[at])),
            )
            for at in positions
        ]


def load_pair(base: str, tuned: str, max_length: int | None) -> Pair:
    """The checkpoints of two Hugging Face folders, finished runs or hf:NAMEs; `max_length` as of `scored_length`.

    Raises: InputError where they differ in family or shape, by the name of what differs, or were trained at different
    lengths.
    """
    first, second = (Side(name, load_checkpoint(name)) for name in (base, tuned))
    refuse_other_shape(first, second, "compared")
    length = length_of_sides(max_length, (first, second))
    return Pair(first, second, {}, length)


def length_of_sides(max_length: int | None, sides: Sequence[Side]) -> Length:
    """`scored_length` of some checkpoints."""
    return scored_length(max_length, {side.name: side.checkpoint for side in sides})


def scored(pair: Pair, data: Data, base_head: str | None, tuned_head: str, held_out: bool) -> ScoredPair:
    """What both answer to the rows of `data`; without a `base_head` the tuned one alone is asked.

    Raises: InputError for heads of different labels, tokenizers that read a row differently, and as `prepare`.
    """
    if base_head is not None:
        refuse_other_labels(pair, base_head, tuned_head)
    rows = read_scored(data, held_out)
    heads = ((pair.base.checkpoint, base_head), (pair.tuned.checkpoint, tuned_head))
    asked = [(one, head) for one, head in heads if head is not None]
    encoded = [prepare_scored(data, rows, one, head, one.heads[head], pair.length.tokens) for one, head in asked]
    _refuse_other_tokens(pair, rows, [each.splits["test"] for each in encoded])
    predictor = pair.predictor(encoded[0].task)
    scores = [scored_logits(predictor, only_head(one.params, head, SCORED), encoded[0]) for one, head in asked]
    notes = tuple(dict.fromkeys(note for each in encoded for note in each.notes))
    return ScoredPair(rows, encoded[0], None if base_head is None else scores[0], scores[-1], notes)


def _answer(found: dict) -> dict:
    return {name: found[name] for name in ("prediction", "logits")}


def refuse_other_shape(base: Side, tuned: Side, done: str) -> None:
    """Refuse two models of different families or shapes; `done` says what they were to be."""
    first, second = (side.checkpoint.model for side in (base, tuned))
    values = [("family", first.family, second.family)]
    if first.family == second.family:
        names = [field.name for field in fields(first.config) if field.name not in ONLY_TRAINING]
        values = [(name, getattr(first.config, name), getattr(second.config, name)) for name in names]
    differences = [f"{name} is {a} in {base.name}, {b} in {tuned.name}" for name, a, b in values if a != b]
    if differences:
        raise InputError(f"only checkpoints of one family and shape can be {done}: {'; '.join(differences)}")


def refuse_other_labels(pair: Pair, base_head: str, tuned_head: str) -> None:
    """Refuse two heads that differ in kind or in their labels."""
    heads = pair.base.checkpoint.heads[base_head], pair.tuned.checkpoint.heads[tuned_head]
    if alike(*heads):
        return
    said = [
        f"the head {name!r} of {side.name} is for {head.kind}" + (f" into {', '.join(head.labels)}" * bool(head.labels))
        for side, name, head in zip((pair.base, pair.tuned), (base_head, tuned_head), heads, strict=True)
    ]
    raise InputError(
        f"two heads can be compared when they have the same labels in the same order: {'; '.join(said)}. Name another "
        "head, or mend id2label in config.json"
    )


def refuse_other_vocabulary(base: Side, tuned: Side, done: str) -> None:
    """Refuse two tokenizers that give one token two numbers; `done` says what the checkpoints were to be."""
    checkpoints = [side.checkpoint for side in (base, tuned)]
    different = first_difference(*(load_tokenizer(one.folder, one.model.config.vocab_size) for one in checkpoints))
    if different:
        number, first, second = different
        raise InputError(
            f"only checkpoints of one vocabulary can be {done}: token {number} is {first!r} in {base.name}, {second!r} "
            f"in {tuned.name}"
        )


def _refuse_other_tokens(pair: Pair, rows: Rows, encoded: list[Encoded]) -> None:
    first, last = encoded[0], encoded[-1]
    pairs = zip(rows.numbers, first.ids, last.ids, first.types, last.types, strict=True)
    for number, ids, other_ids, types, other_types in pairs:
        if not (np.array_equal(ids, other_ids) and np.array_equal(types, other_types)):
            raise InputError(
                f"{rows.source}, row {number}: {pair.base.name} and {pair.tuned.name} read it as different tokens, so "
                "their tokenizers differ; only checkpoints with the same tokenizer can be compared"
            )
