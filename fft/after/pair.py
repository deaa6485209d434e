"""Two checkpoints that can be compared example by example, and their outputs on the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
import numpy as np

from fft.after.tokens import OTHER_TEMPLATE, other_tokenizer, read_by_template, refuse_other_tokens
from fft.core.errors import InputError
from fft.core.naming import UNEMBED
from fft.data import Rows, TaskData, prepare_scored, read_scored
from fft.data.tokenize import Tokenizer, first_difference, load_tokenizer
from fft.evaluate.answers import answers
from fft.evaluate.predict import Predictor
from fft.evaluate.predictor import make_predict, scored_logits
from fft.experiment import Data
from fft.models import FAMILIES, Checkpoint
from fft.models.files.export import pad_field
from fft.models.files.heads import alike
from fft.models.heads import only_head
from fft.models.layers import Sizes
from fft.run.restored import Length, load_checkpoint, scored_length
from fft.stats.intervals import predictions
from fft.stats.metrics import METRICS, Metric
from fft.stats.records import ExampleRecord
from fft.tasks import Task

UNREAD = ("dropout", "tied")
"""ends of the names of fields that neither states nor sequence heads depend on, if there is no dropout"""
ABOUT_ROWS = ("row", "label", "tokens", "prompt", "expected")
"""the parts of an answer that do not depend on the model"""
SCORED = "scored"  # a head's name while it is scored, so that both checkpoints share one compiled program


class Side(NamedTuple):
    """A checkpoint and the path or name that the user gave for it."""

    name: str
    checkpoint: Checkpoint

    def tokenizer(self) -> Tokenizer:
        """Load its tokenizer. Raises: InputError as `load_tokenizer`."""
        return load_tokenizer(self.checkpoint.folder, self.checkpoint.model.config.vocab_size)


Said = str | float | None


class Pair(NamedTuple):
    """Two checkpoints of one family and shape, the programs that score them, by task or by type of task, and the length
    that texts are cut to.
    """

    base: Side
    tuned: Side
    predictors: dict[type | Task, Predictor]
    length: Length
    language: bool = False
    """whether both were loaded with their language heads"""

    def predictor(self, task: Task) -> Predictor:
        """Return the program that scores the head SCORED, or the language head, of either checkpoint for tasks of this
        type.
        """
        scored = task if task.name == UNEMBED else task.with_head(SCORED)
        alike = scored if task.name == UNEMBED else type(task)
        if alike not in self.predictors:
            self.predictors[alike] = make_predict(self.base.checkpoint.model, scored)
        return self.predictors[alike]

    @property
    def names(self) -> tuple[str, str]:
        """The names of both."""
        return self.base.name, self.tuned.name

    @property
    def templates_differ(self) -> bool:
        """Whether their tokenizers have different chat templates."""
        first, second = (side.tokenizer().source.chat_template for side in (self.base, self.tuned))
        return first != second

    @property
    def notes(self) -> list[str]:
        """Notes on the files of both, and on the length."""
        return [*self.base.checkpoint.notes, *self.tuned.checkpoint.notes, *self.length.notes]


class ScoredPair(NamedTuple):
    """N rows of text, their encoded task, and the outputs (Task.score) [N, W] of base (before) and tuned (after).

    before is None if the base has no head for the task. `notes` are on the rows and on both tokenizers.
    """

    rows: Rows
    data: TaskData
    before: np.ndarray | None
    after: np.ndarray
    notes: tuple[str, ...]

    @property
    def metric(self) -> Metric:
        """The metric of the task."""
        return METRICS[self.data.task.metric]

    @property
    def labels(self) -> np.ndarray:
        """The class indices or targets [N]."""
        return self.data.splits["test"].labels

    def examples(self) -> list[dict]:
        """Return {"row", "label", "base", "tuned"} for every example; base and tuned are {"prediction", "logits"}. Of a
        language task it is {"row", "tokens", "base", "tuned"}, and base and tuned are {"nll", "right"}.
        """
        scored = self.data.splits["test"]
        tuned = answers(self.data.task, scored, self.after)
        base = [None] * len(tuned) if self.before is None else answers(self.data.task, scored, self.before)
        return [
            {name: after[name] for name in ABOUT_ROWS if name in after}
            | {side: answer and _answer(answer) for side, answer in (("base", before), ("tuned", after))}
            for before, after in zip(base, tuned, strict=True)
        ]

    def of_examples(self, scores: np.ndarray) -> np.ndarray:
        """Return the prediction for every example [N]; of a language task its mean loss, in nats a token."""
        if self.metric.kind == "language":
            return np.asarray(self.data.task.losses(jnp.asarray(scores), jnp.asarray(self.labels)), np.float64)
        return predictions(self.metric.kind, scores)

    def changed(self, positions: np.ndarray) -> list[ExampleRecord]:
        """Return the examples at these positions, with the predictions of both; none if the base has no head."""
        numbers = self.data.splits["test"].numbers
        if self.before is None:
            return []
        label, before, after = self._said(self.before)
        place = {number: at for at, number in enumerate(self.rows.numbers)}  # rows may have been left out
        return [
            ExampleRecord(
                row=int(numbers[at]),
                text=self.rows.texts[place[int(numbers[at])]],
                pair=self.rows.pairs[place[int(numbers[at])]] if self.rows.pairs else None,
                label=label[at],
                base=before[at],
                tuned=after[at],
            )
            for at in positions
        ]

    def _said(self, before: np.ndarray) -> tuple[list[Said], list[Said], list[Said]]:
        """Return the label of every example and the predictions of both models, as names, numbers or texts."""
        task, rows = self.data.task, self.data.splits["test"]
        if task.generates:
            base, tuned = answers(task, rows, before), answers(task, rows, self.after)
            return [row["expected"] for row in base], [row["answer"] for row in base], [row["answer"] for row in tuned]
        values = self.labels, self.of_examples(before), self.of_examples(self.after)
        label, base, tuned = ([task.called(float(each)) for each in column] for column in values)
        return label, base, tuned


def load_pair(base: str, tuned: str, max_length: int | None, language: bool = False) -> Pair:
    """Load the checkpoints of two Hugging Face folders, finished runs or hf:NAMEs.

    `max_length` is the requested length of `scored_length`.

    Raises: InputError that names the difference if they differ in family or shape, or were trained at different
    lengths.
    """
    first, second = (Side(name, load_checkpoint(name, language)) for name in (base, tuned))
    refuse_other_shape(first, second, "compared")
    length = length_of_sides(max_length, (first, second))
    return Pair(first, second, {}, length, language)


def length_of_sides(max_length: int | None, sides: Sequence[Side]) -> Length:
    """Return `scored_length` of some checkpoints."""
    return scored_length(max_length, {side.name: side.checkpoint for side in sides})


def score_pair(pair: Pair, data: Data, base_head: str | None, tuned_head: str, held_out: bool) -> ScoredPair:
    """Score both checkpoints on the rows of `data`; without a `base_head` only the tuned one.

    Raises: InputError for heads of different labels, tokenizers that read a row differently, and as `prepare`.
    """
    if base_head is not None:
        refuse_other_labels(pair, base_head, tuned_head)
    rows = read_scored(data, held_out)
    heads = ((pair.base.checkpoint, base_head), (pair.tuned.checkpoint, tuned_head))
    scorable = [(one, head) for one, head in heads if head is not None]
    encoded = [prepare_scored(data, rows, one, head, one.head(head), pair.length.tokens) for one, head in scorable]
    first, last = encoded[0].splits["test"], encoded[-1].splits["test"]
    templates = base_head is not None and read_by_template(data, rows) and pair.templates_differ
    cause = OTHER_TEMPLATE if templates else other_tokenizer("compared")
    refuse_other_tokens(rows.source, pair.names, first, last, cause)
    predictor = pair.predictor(encoded[0].task)
    scores = [scored_logits(predictor, only_head(one.params, head, SCORED), encoded[0]) for one, head in scorable]
    notes = tuple(dict.fromkeys(note for task in encoded for note in task.notes))
    if templates:
        notes += (f"{' and '.join(pair.names)} have different chat templates, which write these rows alike",)
    return ScoredPair(rows, encoded[0], None if base_head is None else scores[0], scores[-1], notes)


def _answer(answer: dict) -> dict:
    return {name: value for name, value in answer.items() if name not in ABOUT_ROWS}


def refuse_other_shape(base: Side, tuned: Side, purpose: str) -> None:
    """Refuse two models of different families, or that compute different functions of equal parameters.

    The shapes are compared, so that a field of config.json may be spelled in two ways.
    `purpose` is a participle for the message: "merged".

    Raises: InputError that names the fields of the shape that differ.
    """
    first, second = (side.checkpoint.model for side in (base, tuned))
    values = [("family", first.family, second.family)]
    if first.family == second.family:
        names = first.config.beyond_shape
        values = [(name, getattr(first.config, name), getattr(second.config, name)) for name in names]
        values += differing("", *(_written_shape(side.checkpoint) for side in (base, tuned)))
    differences = [f"{name} is {a} in {base.name}, {b} in {tuned.name}" for name, a, b in values if a != b]
    if differences:
        raise InputError(f"only checkpoints of one family and shape can be {purpose}: {'; '.join(differences)}")


def differing(name: str, first: Any, second: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, value, other value) for the fields in which two shapes differ, those in UNREAD aside.

    Of layers that differ only the first is named.
    """
    if is_dataclass(first) and type(first) is type(second):
        for field in fields(first):
            if not field.name.endswith(UNREAD):
                path = f"{name}.{field.name}" if name else field.name
                yield from differing(path, getattr(first, field.name), getattr(second, field.name))
    elif isinstance(first, tuple) and isinstance(second, tuple):
        pairs = enumerate(zip(first, second, strict=False))  # of another length where another field, depth, differs
        yield from next((differing(f"{name}.{at}", a, b) for at, (a, b) in pairs if a != b), ())
    elif first != second:
        yield name, first, second


def _written_shape(checkpoint: Checkpoint) -> Sizes:
    """Return the shape of a checkpoint as fft writes it: a decoder without a padding id gets one then."""
    written = pad_field(checkpoint.raw_config, FAMILIES[checkpoint.model.family], checkpoint.model.config)
    shape = checkpoint.model.config.shape
    return replace(cast("Any", shape), pad=written["pad_token_id"]) if written else shape


def refuse_other_labels(pair: Pair, base_head: str, tuned_head: str) -> None:
    """Refuse two heads that differ in kind or in their labels.

    Raises: InputError that describes both.
    """
    own, its = pair.base.checkpoint.head(base_head), pair.tuned.checkpoint.head(tuned_head)
    assert own is not None and its is not None  # both were chosen among those of the checkpoints
    if alike(own, its):
        return
    descriptions = [
        f"the head {name!r} of {side.name} is for {head.kind}" + (f" into {', '.join(head.labels)}" * bool(head.labels))
        for side, name, head in zip((pair.base, pair.tuned), (base_head, tuned_head), (own, its), strict=True)
    ]
    raise InputError(
        f"only heads that have the same labels in the same order can be compared: {'; '.join(descriptions)}. Name "
        "another head, or correct id2label in config.json"
    )


def refuse_other_vocabulary(base: Side, tuned: Side, purpose: str) -> None:
    """Refuse two tokenizers with different token ids; `purpose` is as `refuse_other_shape`'s.

    Raises: InputError that names a token.
    """
    different = first_difference(base.tokenizer(), tuned.tokenizer())
    if different:
        number, first, second = different
        raise InputError(
            f"only checkpoints of one vocabulary can be {purpose}: token {number} is {first!r} in {base.name}, "
            f"{second!r} in {tuned.name}"
        )
