"""Encodes labels as class numbers or targets, and checks each one before anything is computed.

On a device, a label of -1 would count as the last class, and a label >= C would give NaN.
"""

import difflib
import math
import re
from collections.abc import Sequence

import numpy as np

from fft.core.errors import InputError
from fft.data.missing import among_numbers, missing_labels, refuse_missing
from fft.data.numbers import INTEGER, has_comma, is_code, is_fraction, is_missing, is_number, whole, without_point
from fft.data.rows import Label, Rows

_GENERIC = re.compile(r"LABEL_[0-9]+")


def class_texts(rows: Rows) -> list[str]:
    """Return the label of every row as a class name, regardless of any head; 1.0 among whole numbers is 1."""
    texts = [str(label) for label in rows.labels]
    kinds = [text for text in set(texts) if not is_missing(text)]
    plain = dict(zip(kinds, without_point(kinds), strict=True))
    return [plain.get(text, text) for text in texts]


def label_names(rows: Rows) -> tuple[str, ...]:
    """Return the class names of `rows`: whole numbers in numeric order ('0', '1', ...), else names alphabetically.

    Raises: InputError for fractions (use regression), negative numbers, missing values among numbers, or a single
    class.
    """
    if among_numbers(rows):
        refuse_missing(rows)
    _refuse_fractions(rows)
    names = set(class_texts(rows))
    numbers = all(INTEGER.fullmatch(name) for name in names)
    if numbers:
        _refuse_negative(rows)
    if len(names) < 2:
        raise InputError(f"{rows.source}: every row has the label {names.pop()!r}; give rows of two classes or more")
    return tuple(sorted(names, key=int if numbers else str))


def encode_labels(
    rows: Rows, labels: Sequence[str] | None = None, numbers: bool = True
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return class numbers int32 [N] and the class names; `labels` fixes the names, None derives them from `rows`.

    With fixed names, a label must match a name, apart from blanks at its ends, from case if that is unambiguous, and
    with 1.0 equal to 1. With `numbers`, if all labels are whole numbers and no name is, the labels are class numbers,
    as in Hugging Face's id2label.

    Raises: InputError naming the row of an unknown label, a negative one, one >= C, or a missing value.
    """
    if labels is None:
        names = label_names(rows)
        at = {name: index for index, name in enumerate(names)}
        return np.array([at[text] for text in class_texts(rows)], np.int32), names
    names = tuple(name.strip() for name in labels)
    refuse_missing(rows, known=names)
    if not any(is_fraction(name) or has_comma(name) for name in names):
        _refuse_fractions(rows)
    numbered = numbers and all(whole(name) is None for name in names) and _all_whole(rows)
    known: dict[Label, int] = {}
    encoded = np.empty(len(rows.labels), np.int32)
    for row, label in enumerate(rows.labels):
        if label not in known:
            known[label] = _class_of(label, names, numbered, f"{rows.source}, row {rows.numbers[row]}")
        encoded[row] = known[label]
    return encoded, tuple(labels)


def label_notes(rows: Rows, labels: Sequence[str], given: bool) -> list[str]:
    """Return notes on how labels were read; `given`: the names are those of a head in the checkpoint."""
    notes = []
    if given and numbers_for_names(rows, labels):
        named = ", ".join(f"{at} = {name}" for at, name in enumerate(labels))
        notes.append(f"labels are numbers, read as the head's classes: {named}")
    if not given:
        notes += missing_labels(rows)
    names = {name.strip() for name in labels}
    pointed = [text for text in set(map(str, rows.labels)) - names if not INTEGER.fullmatch(text)]
    if read := {text: value for text in pointed if (value := whole(text)) is not None}:
        example = max(read, key=read.__getitem__)
        meant = next((name for name in names if whole(name) == read[example]), read[example])
        notes.append(f"labels {example} are read as {meant}")
    return notes


def numbers_for_names(rows: Rows, labels: Sequence[str]) -> bool:
    """Whether `rows` has class numbers although the head's classes have real names."""
    if any(whole(name.strip()) is not None or _GENERIC.fullmatch(name.strip()) for name in labels):
        return False
    return _all_whole(rows)


def _all_whole(rows: Rows) -> bool:
    return all(whole(str(label)) is not None for label in rows.labels)


def _class_of(label: Label, names: tuple[str, ...], numbered: bool, where: str) -> int:
    """Return the class number of a label for a head with fixed names. Raises: InputError for an unknown label."""
    text = str(label)
    if text in names:
        return names.index(text)
    value = whole(text)
    near = [index for index, name in enumerate(names) if name.casefold() == text.casefold()]
    near = near or [index for index, name in enumerate(names) if value is not None and whole(name) == value]
    if len(near) == 1:
        return near[0]
    if value is not None:
        if value < 0:
            raise InputError(f"{where}: label {text}: {_UNLABELLED}")
        if numbered and value < len(names):
            return value
    close = difflib.get_close_matches(text, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if not close and all(_GENERIC.fullmatch(name) or (value is None and INTEGER.fullmatch(name)) for name in names):
        hint = " If these are the same classes, give them their names in id2label of config.json"
    ids = f", or 0 to {len(names) - 1}" if numbered else ""
    raise InputError(f"{where}: unknown label {text!r}; the head has {', '.join(map(repr, names))}{ids}.{hint}")


_UNLABELLED = (
    "-1 and other negative numbers mark unlabelled rows in published data sets. Remove these rows or name the class."
)


def _refuse_codes(source: str, pairs: Sequence[tuple[int, str]]) -> None:
    """Reject labels (row, text) of which some have a decimal point and others are codes such as 007.

    It is then ambiguous whether 007 is class 7. Raises: InputError.
    """
    pointed = next((text for _, text in pairs if whole(text) is not None and not INTEGER.fullmatch(text)), None)
    number, code = next((pair for pair in pairs if is_code(pair[1])), (0, None))
    if pointed is not None and code is not None:
        raise InputError(
            f"{source}, row {number}: label {code} is written as a code, and others as numbers with a point, such as "
            f"{pointed}: write all of them the same way"
        )


def _refuse_fractions(rows: Rows) -> None:
    """Reject labels that are all numbers, some of them not whole. Raises: InputError naming the first of these."""
    pairs = [(number, str(label)) for number, label in zip(rows.numbers, rows.labels, strict=True)]
    pairs = [pair for pair in pairs if not is_missing(pair[1])]
    if not all(is_number(text) or has_comma(text) for _, text in pairs):
        return
    _refuse_codes(rows.source, pairs)
    if fractions := [pair for pair in pairs if is_fraction(pair[1]) or has_comma(pair[1])]:
        number, text = min(fractions)
        what = "is not a whole number"
        if has_comma(text):
            what = "seems to be a number with a decimal comma"
        elif float(text).is_integer():
            what = "is too large to be read exactly"
        point = ", and write it with a point, as 0.5" if has_comma(text) else ""
        raise InputError(
            f"{rows.source}, row {number}: label {text} {what}, so it is not a class. Classes are names or whole "
            "numbers; for a numeric target use kind regression (--task.kind regression, or --original.kind, "
            f"--new.kind){point}."
        )


def _refuse_negative(rows: Rows) -> None:
    for number, label, text in zip(rows.numbers, rows.labels, class_texts(rows), strict=True):
        if int(text) < 0:
            raise InputError(f"{rows.source}, row {number}: label {label}: {_UNLABELLED}")


LARGEST = float(np.finfo(np.float32).max)


def encode_targets(rows: Rows) -> np.ndarray:
    """Return targets float32 [N]. Raises: InputError naming the row of a missing or non-finite target."""
    refuse_missing(rows, "target")
    targets = np.empty(len(rows.labels), np.float32)
    for row, label in enumerate(rows.labels):
        where = f"{rows.source}, row {rows.numbers[row]}"
        try:
            value = float(label)
        except ValueError:
            advice = "for class names use kind classification"
            if has_comma(str(label)):
                advice = "it seems to have a decimal comma. Write it with a point, as 0.5"
            raise InputError(f"{where}: target {label!r} is not a number; {advice}") from None
        if not math.isfinite(value) or abs(value) > LARGEST:
            raise InputError(f"{where}: target {label} is not a finite float32 number. Remove or correct the row.")
        targets[row] = value
    return targets
