"""From a Data setting to a TaskData: rows read, split, checked, labelled and tokenized, all before step 1."""

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
    """What texts without labels have in place of a task: one without any class."""

    name: str = "unlabelled"
    labels: tuple[str, ...] = ()
    kind: ClassVar[str] = "texts"

    def called(self, value: float) -> float:
        """The number that stands in place of a label."""
        return float(value)


DEFAULT_LENGTH = 128


class TaskData(NamedTuple):
    """One task, ready to train on and to be scored.

    `splits` holds train, validation, test (test alone when only scored). `lengths` are the at most 5 padded
    lengths that suit the rows of all splits. `identity` is {split: {'rows', 'sha256'}}, the same for the same texts
    and labels in the same order. `keys` are the text keys of every split, by which rows of two tasks are compared.
    `warnings` are about the rows, `tokenizer_notes` about the checkpoint's tokenizer, the same for all of its tasks.
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
        """All that is to be said of the task where it is the only one."""
        return (*self.tokenizer_notes, *self.warnings)


def prepare(
    data: Data, checkpoint: "Checkpoint", name: str, head: "Head | None", *, seed: int, max_length: int | None
) -> TaskData:
    """The task `name` on `data` for the model of `checkpoint`.

    `head` fixes the labels, None takes them from the data: from every row of a source that is split
    here, from the training rows where the source comes split. `max_length` None is 128 tokens, or the model's positions
    where they are fewer.
    Raises: InputError for anything in the data that does not fit the model or the head, MachineError without a network
    that is needed.
    """
    found = make_splits(data.source, columns_of(data), data.validation, data.test)
    task = _task(data, name, head, _labelling_rows(found))
    rows = dict(found.rows)
    rows["train"] = _at_most(data.train_rows, rows["train"], seed)
    prepared = _encoded(task, rows, checkpoint, max_length, numbers=head is not None)
    notes = KINDS[task.kind].training_notes(task, rows, prepared.splits)
    return prepared._replace(warnings=(*found.warnings, *notes, *prepared.warnings))


def prepare_unlabelled(texts: Texts, checkpoint: "Checkpoint", *, seed: int, max_length: int | None) -> TaskData:
    """Texts without labels, all of them in the split 'train'. Raises: InputError as `prepare`."""
    opened = open_source(texts.source)
    rows = opened.read(training_split(opened), Columns(texts.text, texts.pair, None))
    rows = {"train": _at_most(texts.rows, rows, seed)}
    return _encoded(Unlabelled(), rows, checkpoint, max_length, numbers=False)


def read_scored(data: Data, held_out: bool = False) -> Rows:
    """The rows of `data` that are scored where nothing is trained.

    Those of data.test where it is named, else all rows of a source with one split, else its split test, or validation.
    With `held_out` the rows that `prepare` keeps for its split test: of a source with one split about a tenth.
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
    """The task of a head on rows that are only scored: one split, 'test', of `read_scored(data)`.

    Raises: InputError as `prepare`.
    """
    task = _task(data, name, head, rows)
    return _encoded(task, {"test": rows}, checkpoint, max_length, numbers=head is not None)


def prepare_held_out(
    data: Data, checkpoint: "Checkpoint", name: str, head: "Head | None", max_length: int | None
) -> TaskData:
    """The task of a head on the validation and test rows that `prepare` would hold out; nothing is trained.

    Raises: InputError as `prepare`.
    """
    found = make_splits(data.source, columns_of(data), data.validation, data.test)
    rows = {role: found.rows[role] for role in ROLES if role != "train"}
    prepared = _encoded(_task(data, name, head, rows["test"]), rows, checkpoint, max_length, numbers=True)
    return prepared._replace(warnings=(*found.warnings, *prepared.warnings))


def drop_overlap(
    trained: TaskData, scored: TaskData, names: tuple[str, str] | None = None
) -> tuple[TaskData, tuple[str, ...]]:
    """`trained` without training rows whose text the other task is scored on, and a note with their count.

    `names` are what the two are called, None: as their heads. Raises: InputError when no training row is left.
    """
    one, other = names or (trained.task.name, scored.task.name)
    held = {key for role, keys in scored.keys.items() if role != "train" for key in keys}
    kept = [row for row, key in enumerate(trained.keys["train"]) if key not in held]
    dropped = len(trained.keys["train"]) - len(kept)
    if not dropped:
        return trained, ()
    if not kept:
        raise InputError(f"{one}: the task {other!r} is scored on the text of every training row")
    keys = trained.keys | {"train": [trained.keys["train"][row] for row in kept]}
    splits = trained.splits | {"train": trained.splits["train"].take(np.array(kept))}
    are, they = agreeing(dropped, "is", "are"), agreeing(dropped, "it is", "they are")
    note = f"{counted(dropped, 'training row')} of {one!r} {are} scored in {other!r}; {they} not trained on"
    return trained._replace(splits=splits, keys=keys, identity=_identity(trained.task, splits, keys)), (note,)


def task_of(name: str, head: "Head") -> Task:
    """The task that a head serves, for what needs no data of it."""
    return TASKS[head.kind].of_head(name, head.labels)


def head_of(task: Task) -> "Head":
    """The fft.models.Head that serves `task`."""
    from fft.models.model import Head

    return Head(task.kind, task.labels)


def length_of(max_length: int | None, config: "Config") -> int:
    """The tokens that a longer text is cut to: `max_length`, or 128 for None, or the model's positions if fewer."""
    return min(DEFAULT_LENGTH, config.max_positions) if max_length is None else max_length


def columns_of(data: Data) -> Columns:
    """The columns that a Data setting names."""
    return Columns(data.text, data.pair, data.label)


def _at_most(most: int | None, rows: Rows, seed: int) -> Rows:
    """A seeded choice of at most so many rows, in their order."""
    if most is None or most >= len(rows.texts):
        return rows
    return rows.take(np.sort(np.random.default_rng(seed).permutation(len(rows.texts))[:most]).tolist())


def _labelling_rows(found: Splits) -> Rows:
    """The rows whose labels are a new head's classes."""
    parts = [found.rows[role] for role in ("train", *found.carved)]
    labels = [label for part in parts for label in part.labels]
    numbers = [number for part in parts for number in part.numbers]
    return Rows([], None, labels, numbers, parts[0].source)


def _task(data: Data, name: str, head: "Head | None", rows: Rows) -> Task:
    """The task of a Data setting; its metric must exist and be of its kind."""
    if head is not None and head.kind != data.kind:
        raise InputError(
            f"{data.source}: the head {name!r} is for {head.kind}, the data are named as {data.kind}. Give their "
            f"kind as {head.kind} (--task.kind {head.kind}, or --original.kind, --new.kind), or a head for {data.kind}"
        )
    kind = KINDS[data.kind]
    metric = data.metric or kind.metric
    fitting = [known for known in METRICS if METRICS[known].kind == data.kind]
    if metric not in fitting:
        raise InputError(f"metric {metric!r} does not fit {data.kind}; choose from {', '.join(fitting)}")
    return kind.task(name, None if head is None else tuple(head.labels), metric, rows)


def _encoded(
    task: Task, rows: dict[str, Rows], checkpoint: "Checkpoint", max_length: int | None, numbers: bool
) -> TaskData:
    """Labels and tokens of every split; `numbers`: class numbers may stand for the names of the head."""
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
    """Rows and hash of each split: of the texts in order and their labels, and of nothing of the model."""
    result = {}
    for role, part in splits.items():
        labels = [task.called(value) for value in part.labels]
        if part.targets is not None:
            labels = [targets.tolist() for targets in part.targets]
        digest = hashlib.sha256(b"".join(keys[role]) + repr(labels).encode())
        result[role] = {"rows": len(part.ids), "sha256": digest.hexdigest()}
    return result
