"""Prepares a TaskData from Data settings: reads, splits, checks, labels and tokenizes the rows."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from fft.core.brief import brief
from fft.core.errors import InputError
from fft.core.naming import agreeing, counted
from fft.data.batches import bucket_lengths
from fft.data.encoded import Encoded
from fft.data.kinds import KINDS
from fft.data.prompts import templated
from fft.data.rows import Columns, Rows
from fft.data.settings import Data, Texts, column_notes, columns_of, kind_of
from fft.data.sources import ROLES, open_source
from fft.data.splits import Splits, make_splits, text_keys, training_split
from fft.data.tokenize import EncodeOptions, Tokenizer, encode_texts, load_tokenizer
from fft.stats.metrics import METRICS
from fft.tasks import KINDS as TASKS
from fft.tasks import Classify, Language, Task

if TYPE_CHECKING:
    from fft.models.layers import Config
    from fft.models.model import Checkpoint, Head


@dataclass(frozen=True)
class Unlabelled(Classify):
    """Placeholder task for unlabelled texts, without classes."""

    name: str = "unlabelled"
    labels: tuple[str, ...] = ()
    kind: ClassVar[str] = "texts"

    def called(self, value: float) -> float:
        """Return the number that replaces a label."""
        return float(value)


DEFAULT_LENGTH = 128


class TaskData(NamedTuple):
    """The data of one task, ready for training and scoring.

    `splits` holds train, validation and test; only test if nothing is trained. `lengths` are the at most 5 bucket
    lengths for padding the rows of all splits. `identity` is {split: {'rows', 'sha256'}}, equal for equal texts and
    labels in equal order. `keys` are the text keys of every split, for finding rows that two tasks share. `warnings`
    are about the rows, `tokenizer_notes` about the checkpoint's tokenizer. `kind` is that of the data, a name in
    fft.data.kinds.KINDS.
    """

    task: Task
    splits: dict[str, Encoded]
    lengths: tuple[int, ...]
    pad_id: int
    identity: dict[str, dict]
    warnings: tuple[str, ...]
    keys: dict[str, list[bytes]]
    tokenizer_notes: tuple[str, ...] = ()
    kind: str = Unlabelled.kind
    __repr__ = brief

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes and warnings on this task and its tokenizer."""
        return (*self.tokenizer_notes, *self.warnings)


def prepare(
    data: Data, checkpoint: "Checkpoint", name: str, head: "Head | None", *, seed: int, max_length: int | None
) -> TaskData:
    """Prepare the task `name` on `data` for the model of `checkpoint`.

    `head` fixes the labels. With None they come from the data: from the training rows, and from the validation and
    test rows that are split off from the same split. `max_length` None is the default: 128 tokens, of language
    tasks the longest row but at most 1,024, or the model's maximum if less.

    Raises: InputError if the data do not fit the model or the head, MachineError if they need a network and there is
    none.
    """
    parts = make_splits(data.source, columns_of(data), data.validation, data.test)
    task = _task(data, name, head, _labelling_rows(parts))
    rows = dict(parts.rows)
    rows["train"] = _at_most(data.train_rows, rows["train"], seed)
    prepared = _encoded(data, task, rows, checkpoint, max_length, numbers=head is not None)
    notes = KINDS[prepared.kind].training_notes(task, rows, prepared.splits)
    return prepared._replace(warnings=(*parts.warnings, *notes, *prepared.warnings))


def prepare_unlabelled(
    texts: Texts, checkpoint: "Checkpoint", *, language: bool, seed: int, max_length: int | None
) -> TaskData:
    """Prepare unlabelled texts, all in the split 'train'; for a `language` task every token is predicted.

    Raises: InputError as `prepare`.
    """
    opened = open_source(texts.source)
    rows = opened.read(training_split(opened), Columns(texts.text, texts.pair, None, documents=language))
    rows = {"train": _at_most(texts.rows, rows, seed)}
    if language:
        data = Data(texts.source, text=texts.text, kind="text")
        return _encoded(data, Language(), rows, checkpoint, max_length, numbers=False)
    return _encoded(None, Unlabelled(), rows, checkpoint, max_length, numbers=False)


def read_scored(data: Data, held_out: bool = False) -> Rows:
    """Read the rows of `data` to score when nothing is trained.

    These are the rows of data.test if named, else all rows of a source with one split, else its split test or
    validation. With `held_out`, they are the test rows of `prepare`, about a tenth of a source with one split.

    Raises: InputError if there is no split to score.
    """
    if held_out:
        return make_splits(data.source, columns_of(data), data.validation, data.test).rows["test"]
    source = data.test or data.source
    opened = open_source(source)
    split = opened.splits[0] if len(opened.splits) == 1 else opened.spelled("test") or opened.spelled("validation")
    if split is None:
        raise InputError(
            f"{source}: no split to score; there are {', '.join(opened.splits)}. Name one as SOURCE/SPLIT."
        )
    return opened.read(split, columns_of(data))


def prepare_scored(
    data: Data, rows: Rows, checkpoint: "Checkpoint", name: str, head: "Head | None", max_length: int | None
) -> TaskData:
    """Prepare the task of a head on rows that are only scored: the single split 'test', from `read_scored(data)`.

    Raises: InputError as `prepare`.
    """
    task = _task(data, name, head, rows)
    return _encoded(data, task, {"test": rows}, checkpoint, max_length, numbers=head is not None)


def prepare_held_out(
    data: Data, checkpoint: "Checkpoint", name: str, head: "Head | None", max_length: int | None
) -> TaskData:
    """Prepare the task of a head on the validation and test rows of `prepare`, without training rows.

    Raises: InputError as `prepare`.
    """
    parts = make_splits(data.source, columns_of(data), data.validation, data.test)
    rows = {role: parts.rows[role] for role in ROLES if role != "train"}
    prepared = _encoded(data, _task(data, name, head, rows["test"]), rows, checkpoint, max_length, numbers=True)
    return prepared._replace(warnings=(*parts.warnings, *prepared.warnings))


def drop_overlap(
    trained: TaskData, scored: TaskData, names: tuple[str, str] | None = None
) -> tuple[TaskData, tuple[str, ...]]:
    """Return `trained` without training rows whose text the other task is scored on, and a note with their number.

    `names` are the names of the two tasks in messages, by default those of their heads.

    Raises: InputError if no training row remains.
    """
    name, other = names or (trained.task.name, scored.task.name)
    scored_keys = {key for role, keys in scored.keys.items() if role != "train" for key in keys}
    remaining = [row for row, key in enumerate(trained.keys["train"]) if key not in scored_keys]
    dropped = len(trained.keys["train"]) - len(remaining)
    if not dropped:
        return trained, ()
    if not remaining:
        raise InputError(f"{name}: the task {other!r} is scored on the text of every training row: give other rows")
    keys = trained.keys | {"train": [trained.keys["train"][row] for row in remaining]}
    splits = trained.splits | {"train": trained.splits["train"].take_examples(np.array(remaining))}
    are, they = agreeing(dropped, "is", "are"), agreeing(dropped, "it is", "they are")
    note = f"{counted(dropped, 'training row')} of {name!r} {are} scored in {other!r}; {they} not trained on"
    return trained._replace(splits=splits, keys=keys, identity=_identity(trained.task, splits, keys)), (note,)


def task_of(name: str, head: "Head") -> Task:
    """Return the task of a head, without data."""
    return TASKS[head.kind].of_head(name, head.labels)


def head_of(task: Task) -> "Head":
    """Return the fft.models.Head of `task`."""
    from fft.models.model import Head

    return Head(task.kind, task.labels)


def length_of(max_length: int | None, config: "Config", kind: str = "classification") -> int:
    """Return `max_length`, or for None the most tokens of a row by default: those of the kind of task, or the model's
    positions if fewer.
    """
    default = KINDS[kind].length if kind in KINDS else DEFAULT_LENGTH
    return min(default, config.max_positions) if max_length is None else max_length


def _at_most(most: int | None, rows: Rows, seed: int) -> Rows:
    """Return a seeded sample of at most `most` rows, in order."""
    if most is None or most >= len(rows.texts):
        return rows
    return rows.take(np.sort(np.random.default_rng(seed).permutation(len(rows.texts))[:most]).tolist())


def _labelling_rows(splits: Splits) -> Rows:
    """Return the rows whose labels define a new head's classes."""
    parts = [splits.rows[role] for role in ("train", *splits.carved)]
    labels = [label for part in parts for label in part.labels]
    numbers = [number for part in parts for number in part.numbers]
    return Rows([], None, labels, numbers, parts[0].source)


def _task(data: Data, name: str, head: "Head | None", rows: Rows) -> Task:
    """Return the task of `data`. Raises: InputError for a head or metric of another kind."""
    stated = kind_of(data)
    kind = KINDS[stated]
    if head is not None and head.kind != kind.predicts:
        raise InputError(
            f"{data.source}: the head {name!r} is for {head.kind}, and the kind of the data is {stated}. Give the "
            f"kind {head.kind} (--task.kind {head.kind}, or --original.kind, --new.kind), or a head for {stated}"
        )
    metric = data.metric or kind.metric
    fitting = [known for known in METRICS if METRICS[known].kind == kind.scored]
    if metric not in fitting:
        raise InputError(f"metric {metric!r} does not fit {stated}: choose from {', '.join(fitting)}")
    return kind.task(name, None if head is None else tuple(head.labels), metric, rows)


def _encoded(
    data: Data | None,
    task: Task,
    rows: dict[str, Rows],
    checkpoint: "Checkpoint",
    max_length: int | None,
    numbers: bool,
) -> TaskData:
    """Encode every split; `numbers`: class numbers are accepted in place of the head's names. Unlabelled texts have no
    `data`.
    """
    config, splits, warnings = checkpoint.model.config, {}, []
    name = Unlabelled.kind if data is None else kind_of(data)
    if data is not None and (reason := KINDS[name].misfit(checkpoint)):
        raise InputError(f"{checkpoint.folder}: {reason}")
    options = EncodeOptions(length_of(max_length, config, name), config.vocab_size, config.max_positions, numbers)
    tokenizer: Tokenizer = load_tokenizer(checkpoint.folder, config.vocab_size)
    if data is not None:
        tokenizer = templated(tokenizer, data.chat_template)
        options = options._replace(supervise=data.loss, cut=data.cut)
        warnings += column_notes(data)
    keys = {}
    for role, part in rows.items():
        if data is None:
            encoded, notes = encode_texts(tokenizer, part, np.zeros(len(part.texts), np.float32), options)
        else:
            result = KINDS[name].encode(task, part, tokenizer, options)
            encoded, part, notes = result.encoded, result.rows, result.notes
            if role != "train" and (reason := METRICS[task.metric].undefined(encoded.labels)):
                notes = [*notes, f"{KINDS[name].undefined(encoded.labels, reason)}"]
            if role == "train":
                notes = [*notes, *KINDS[name].shown(tokenizer, result)]
        splits[role], keys[role] = encoded, text_keys(part)
        warnings += [f"{role}: {note}" for note in notes]
    if data is not None:
        task = KINDS[name].bound(task, checkpoint, splits, data.max_new)
    lengths = bucket_lengths(np.concatenate([part.lengths() for part in splits.values()]))
    identity = _identity(task, splits, keys)
    return TaskData(task, splits, lengths, tokenizer.pad_id, identity, tuple(warnings), keys, tokenizer.notes, name)


def _identity(task: Task, splits: dict[str, Encoded], keys: dict[str, list[bytes]]) -> dict[str, dict]:
    """Return the row count and hash of each split; the hash depends on texts, labels and order, not on the model."""
    result = {}
    for role, part in splits.items():
        labels = [task.called(value) for value in part.labels]
        if part.targets is not None:
            labels = [targets.tobytes() for targets in part.targets]
        digest = hashlib.sha256(b"".join(keys[role]) + repr(labels).encode())
        result[role] = {"rows": len(part.labels), "sha256": digest.hexdigest()}
    return result
