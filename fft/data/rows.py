"""Rows as read from a source, and the checks that all sources share."""

import difflib
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from fft.core.errors import InputError
from fft.data.messages import OPTIONAL
from fft.data.messages import as_text as conversation_text
from fft.data.numbers import is_missing

Label = str | int | float

_SURROGATE = re.compile("[\ud800-\udfff]")


class Rows(NamedTuple):
    """N rows of one split.

    `numbers` are row numbers in the source, from 1; `source` is its name, for messages; `complete` is whether a text
    ends where its row ends, which the parts of a longer text do not; `chat` is whether the texts are conversations as
    their JSON text.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: list[Label]
    numbers: list[int]
    source: str = ""
    complete: bool = True
    chat: bool = False

    def take(self, picked: Iterable[int]) -> "Rows":
        """Return the rows at positions `picked`, in that order."""
        picked = list(picked)
        return Rows(
            [self.texts[i] for i in picked],
            None if self.pairs is None else [self.pairs[i] for i in picked],
            [self.labels[i] for i in picked],
            [self.numbers[i] for i in picked],
            self.source,
            self.complete,
            self.chat,
        )


class Columns(NamedTuple):
    """The columns of a source with the text, the second text of a pair and the label; None for no such column.

    `fixed`: no setting can name other columns. `documents`: a file of plain text is a document, rather than one text a
    line. `chat`: the text is a conversation in these columns, read as its JSON text.
    """

    text: str = "text"
    pair: str | None = None
    label: str | None = "label"
    documents: bool = False
    fixed: bool = False
    chat: tuple[str, ...] = ()

    def named(self, existing: Collection[str] = ()) -> tuple[str, ...]:
        """Return the names of the columns to read, optional ones only if they are `existing`."""
        others = (name for name in (self.pair, self.label) if name is not None)
        return (*(self.conversation(existing) or (self.text,)), *others)

    def conversation(self, existing: Collection[str]) -> tuple[str, ...]:
        """Return the names of the columns of a conversation, optional ones only if they are `existing`."""
        return (*self.chat, *(OPTIONAL[name] for name in self.chat if OPTIONAL.get(name) in existing))


def require_columns(source: str, existing: Sequence[str], columns: Columns) -> None:
    """Check that each named column exists exactly once.

    Raises: InputError with the existing columns and the closest name.
    """
    texts = [("conversation", name) for name in columns.conversation(existing)] or [("text", columns.text)]
    for role, name in (*texts, ("pair", columns.pair), ("label", columns.label)):
        if existing.count(name) > 1:
            raise InputError(f"{source}: two columns are named {name!r}, the column of the {role}. Rename one of them.")
        if name is None or name in existing:
            continue
        near = difflib.get_close_matches(name, existing, n=1, cutoff=0.5)
        advice = f"Name the {role} column of this source with its `{role}` setting."
        if columns.fixed:
            advice = "Rename the columns, or name another kind of task."
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"{source}: no column {name!r} for the {role}. The columns are: {', '.join(map(repr, existing)) or 'none'}."
            f"{hint} {advice}"
        )


def collect(source: str, columns: Columns, records: Iterable[tuple[str, Mapping]]) -> Rows:
    """Return the rows of (place, {column: value}) records; `place`, such as "row 3 (line 5)", is for messages.

    Without a label column, every label is 0.

    Raises: InputError for a text that is missing, empty, of another type or with half characters, a missing label,
    labels of several types, empty rows, or no row.
    """
    texts, pairs, labels, kinds = [], [], [], {}
    for place, values in _filled(source, records):
        where = f"{source}, {place}"
        if columns.chat:
            texts.append(conversation_text({name: values[name] for name in columns.conversation(values)}, where))
        else:
            texts.append(_text(values[columns.text], f"{where}, column {columns.text!r}"))
        if columns.pair is not None:
            pairs.append(_text(values[columns.pair], f"{where}, column {columns.pair!r}"))
        label, kind = 0, ""
        if columns.label is not None:
            label, kind = _label(values[columns.label], f"{where}, column {columns.label!r}")
        labels.append(label)
        if not is_missing(label):  # "NA" among numbers is reported as missing, not as text
            kinds.setdefault(kind, (place, label))
    if not texts:
        raise InputError(f"{source}: no rows of data: give a source with some")
    if len(kinds) > 1:
        seen = "; ".join(f"{place} has {kind} ({label!r})" for kind, (place, label) in kinds.items())
        raise InputError(f"{source}, column {columns.label!r}: labels of more than one type: {seen}. Use one type.")
    pairs = None if columns.pair is None else pairs
    return Rows(texts, pairs, labels, list(range(1, len(texts) + 1)), source, chat=bool(columns.chat))


def collect_named(source: str, columns: Columns, records: Iterable[Mapping], names: Sequence[str] | None) -> Rows:
    """Return the rows of {column: value} records; `names` replace class numbers.

    Raises: InputError as `collect`, and for a number that is not a class.
    """

    def rows() -> Iterator[tuple[str, Mapping]]:
        for number, record in enumerate(records, 1):
            record = {name: record[name] for name in columns.named(record)}
            if names is not None and columns.label is not None:
                record[columns.label] = _named(record[columns.label], names, f"{source}, row {number}")
            yield f"row {number}", record

    return collect(source, columns, rows())


def _named(label: int | float | str | None, names: Sequence[str], where: str) -> str | float | None:
    """Return the class name of a class number, also one written as text.

    Names are returned unchanged, and so are other texts and missing values (None, NaN), which later checks reject.

    Raises: InputError for a number that is not a class.
    """
    if isinstance(label, str) and label.strip().isdecimal() and label.strip() not in map(str.strip, names):
        label = int(label)
    if label is None or label != label or isinstance(label, str):
        return label
    if not 0 <= label < len(names) or label != int(label):
        advice = "Correct the row, or the class names in the source."
        if label < 0:
            advice = "Negative numbers mark unlabelled rows: name a labelled split."
        raise InputError(
            f"{where}: label {label} is not one of the {len(names)} classes, 0 to {len(names) - 1}. {advice}"
        )
    return names[int(label)]


def _filled(source: str, records: Iterable[tuple[str, Mapping]]) -> Iterator[tuple[str, Mapping]]:
    """Yield the records, and reject empty ones, which saved spreadsheets often end with. Raises: InputError."""
    empty = []
    for number, (place, values) in enumerate(records, 1):
        if all(_is_nothing(value) or (isinstance(value, str) and not value.strip()) for value in values.values()):
            empty.append((number, place))
        elif empty:
            break
        else:
            yield place, values
    if empty:
        (first, place), (last, _) = empty[0], empty[-1]
        problem = "the row is empty. Remove it." if first == last else f"rows {first} to {last} are empty. Remove them."
        raise InputError(f"{source}, {place}: {problem}")


def _is_nothing(value: object) -> bool:
    """Whether a value is null, or NaN, which pandas uses for null."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: object, where: str) -> str:
    if isinstance(value, bytes):
        value = _decoded(value, where)
    if _is_nothing(value):
        raise InputError(
            f"{where}: the text is missing ({'null' if value is None else 'NaN'}). Remove the row or fill it in."
        )
    if not isinstance(value, str):
        raise InputError(f"{where}: expected text, got {type(value).__name__} {value!r}")
    if not value.strip():
        raise InputError(f"{where}: the text is empty. Remove the row or fill it in.")
    return _without_surrogates(value, where)


def _decoded(value: bytes, where: str) -> str:
    try:
        return value.decode("utf-8", "surrogatepass")  # half characters have their own message
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not valid UTF-8 at byte {error.start} of the text. Save it as UTF-8.") from None


def _without_surrogates(text: str, where: str) -> str:
    """Return the text, and reject surrogates, which JSON can express but no tokenizer or terminal can use.

    Raises: InputError.
    """
    if half := _SURROGATE.search(text):
        raise InputError(f"{where}: half a character (U+{ord(half.group()):04X}): remove it, or save the text again")
    return text


def _label(value: object, where: str) -> tuple[Label, str]:
    """Return the label as str, int or float, and its type in words. Raises: InputError."""
    if isinstance(value, bytes):
        value = _decoded(value, where)
    if callable(item := getattr(value, "item", None)):  # numpy scalars of tfds
        value = item()
    if _is_nothing(value) or (isinstance(value, str) and not value.strip()):
        nan = " (NaN)" if isinstance(value, float) else ""
        raise InputError(f"{where}: the label is missing{nan}. Remove the row or fill it in.")
    if isinstance(value, bool):
        return str(value).lower(), "true or false"
    if isinstance(value, int | float):
        return value, "a number"
    if isinstance(value, str):
        return _without_surrogates(value.strip(), where), "text"
    raise InputError(f"{where}: expected a label (text or a number), got {type(value).__name__} {value!r}")
