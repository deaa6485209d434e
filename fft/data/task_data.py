"""Prepares a TaskData from Data settings: reads, splits, checks, labels and tokenizes the rows."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from fft.core.brief import brief
from fft.core.errors import InputError
from fft.core.naming import agreeing, counted
from fft.data.batches import bucket_lengths
from fft.data.kinds import KINDS
from fft.data.missing import missing_texts
from fft.data.rows import Columns, Rows
from fft.data.settings import Data, Texts
from fft.data.sources import ROLES, open_source
from fft.data.splits import Splits, make_splits, text_keys, training_split
from fft.data.tokenize import Encoded, Tokenizer, encode, load_tokenizer, text_notes
from fft.stats.metrics import METRICS
from fft.tasks import KINDS as TASKS
from fft.tasks import Classify, Task

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
    are about the rows, `tokenizer_notes` about the checkpoint's tokenizer.
    """

    task: Task
    splits: dict[str, Encoded]
    lengths: tuple[int, ...]
    pad_id: int
    identity: dict[str, dict]
    warnings: tuple[str, ...]
    keys: dict[str, list[bytes]]
    tokenizer_notes: tuple[str, ...] = ()
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
    test rows that are split off from the same split. `max_length` None is 128 tokens, or the model's maximum if less.

    Raises: InputError if the data do not fit the model or the head, MachineError if they need a network and there is
    none.
    """
    parts = make_splits(data.source, columns_of(data), data.validation, data.test)
    task = _task(data, name, head, _labelling_rows(parts))
    rows = dict(parts.rows)
    rows["train"] = _at_most(data.train_rows, rows["train"], seed)
    prepared = _encoded(task, rows, checkpoint, max_length, numbers=head is not None)
    notes = KINDS[task.kind].training_notes(task, rows, prepared.splits)
    return prepared._replace(warnings=(*parts.warnings, *notes, *prepared.warnings))


def prepare_unlabelled(texts: Texts, checkpoint: "Checkpoint", *, seed: int, max_length: int | None) -> TaskData:
    """Prepare unlabelled texts, all in the split 'train'. Raises: InputError as `prepare`."""
    opened = open_source(texts.source)
    rows = opened.read(training_split(opened), Columns(texts.text, texts.pair, None))
    rows = {"train": _at_most(texts.rows, rows, seed)}
    return _encoded(Unlabelled(), rows, checkpoint, max_length, numbers=False)


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
    return _encoded(task, {"test": rows}, checkpoint, max_length, numbers=head is not None)


def prepare_held_out(
    data: Data, checkpoint: "Checkpoint", name: str, head: "Head | None", max_length: int | None
) -> TaskData:
    """Prepare the task of a head on the validation and test rows of `prepare`, without training rows.

    Raises: InputError as `prepare`.
    """
    parts = make_splits(data.source, columns_of(data), data.validation, data.test)
    rows = {role: parts.rows[role] for role in ROLES if role != "train"}
    prepared = _encoded(_task(data, name, head, rows["test"]), rows, checkpoint, max_length, numbers=True)
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
    splits = trained.splits | {"train": trained.splits["train"].take(np.array(remaining))}
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


def length_of(max_length: int | None, config: "Config") -> int:
    """Return `max_length`, or for None 128 tokens, or the model's positions if fewer."""
    return min(DEFAULT_LENGTH, config.max_positions) if max_length is None else max_length


def columns_of(data: Data) -> Columns:
    """Return the columns that `data` names."""
    return Columns(data.text, data.pair, data.label)


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
    if head is not None and head.kind != data.kind:
        raise InputError(
            f"{data.source}: the head {name!r} is for {head.kind}, and the kind of the data is {data.kind}. Give the "
            f"kind {head.kind} (--task.kind {head.kind}, or --original.kind, --new.kind), or a head for {data.kind}"
        )
    kind = KINDS[data.kind]
    metric = data.metric or kind.metric
    fitting = [known for known in METRICS if METRICS[known].kind == data.kind]
    if metric not in fitting:
        raise InputError(f"metric {metric!r} does not fit {data.kind}: choose from {', '.join(fitting)}")
    return kind.task(name, None if head is None else tuple(head.labels), metric, rows)


def _encoded(
    task: Task, rows: dict[str, Rows], checkpoint: "Checkpoint", max_length: int | None, numbers: bool
) -> TaskData:
    """Encode labels and texts of every split; `numbers`: class numbers are accepted in place of the head's names."""
    config, splits, warnings, kind = checkpoint.model.config, {}, [], KINDS.get(task.kind)
    max_length = length_of(max_length, config)
    tokenizer: Tokenizer = load_tokenizer(checkpoint.folder, config.vocab_size)
    for role, part in rows.items():
        labels, notes = kind.encoded(task, part, numbers) if kind else (np.zeros(len(part.texts), np.float32), [])
        warnings += [f"{role}: {note}" for note in (*notes, *missing_texts(part))]
        splits[role], cut = encode(tokenizer, part, labels, max_length, config.vocab_size, config.max_positions)
        splits[role] = kind.with_targets(task, part, splits[role]) if kind else splits[role]
        warnings += [f"{role}: {note}" for note in text_notes(tokenizer, splits[role].ids, part.pairs is not None)]
        if kind and role != "train" and (reason := METRICS[task.metric].undefined(labels)):
            warnings.append(f"{role}: {kind.undefined(labels, reason)}")
        if cut:
            total, are = counted(len(part.texts), "text"), agreeing(cut, "is", "are")
            warnings.append(f"{role}: {cut:,} of {total} {are} longer than {max_length} tokens and {are} cut")
    lengths = bucket_lengths(np.concatenate([part.lengths() for part in splits.values()]))
    keys = {role: text_keys(part) for role, part in rows.items()}
    identity = _identity(task, splits, keys)
    return TaskData(task, splits, lengths, tokenizer.pad_id, identity, tuple(warnings), keys, tokenizer.notes)


def _identity(task: Task, splits: dict[str, Encoded], keys: dict[str, list[bytes]]) -> dict[str, dict]:
    """Return the row count and hash of each split; the hash depends on texts, labels and order, not on the model."""
    result = {}
    for role, part in splits.items():
        labels = [task.called(value) for value in part.labels]
        if part.targets is not None:
            labels = [targets.tolist() for targets in part.targets]
        digest = hashlib.sha256(b"".join(keys[role]) + repr(labels).encode())
        result[role] = {"rows": len(part.ids), "sha256": digest.hexdigest()}
    return result
