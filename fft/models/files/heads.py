"""The labels of a checkpoint's heads: Hugging Face's label fields, and fft's record of several heads.

A Hugging Face checkpoint has one head. fft stores the others in `fft_heads.safetensors`, under its own paths, and
describes all of them in `fft_heads.json`; Hugging Face ignores both files.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fft.core.errors import InputError
from fft.models.files.config import read_json
from fft.models.model import Family, Head
from fft.tasks import KINDS

HEADS_JSON, HEADS_TENSORS = "fft_heads.json", "fft_heads.safetensors"
ORIGINAL = "original"  # the name given to a head stored without one


def classifier_of(raw: dict[str, Any], family: Family, where: Path) -> Head:
    """Return the Head that a config.json describes for the stored classifier.

    One output means regression unless problem_type says otherwise, as in transformers.
    Raises: InputError for the classifier of another kind of model (whose tensors have the same names), for
    multi-label heads, and as `read_labels`.
    """
    expected = f"{family.architecture}ForSequenceClassification"
    architectures = raw.get("architectures") or [expected]
    if expected not in architectures:
        raise InputError(
            f"{where}: the checkpoint has a classifier, but of {', '.join(map(str, architectures))}, not {expected}; "
            "only sequence classification and regression heads can be read"
        )
    labels = read_labels(raw, where)
    problem = raw.get("problem_type") or ("regression" if len(labels) == 1 else "single_label_classification")
    for kind, task in KINDS.items():
        if problem == task.problem and (len(labels) > 1) == task.named:
            return Head(kind, labels if task.named else ())
    why = ": the softmax of one label is always 1, so that its loss would always be 0"
    raise InputError(
        f"{where}: problem_type {problem!r} with {len(labels)} label(s) is not supported"
        f"{why * (problem == 'single_label_classification')}; expected single_label_classification with two or more "
        "labels, or regression with one"
    )


def read_labels(raw: dict[str, Any], where: Path) -> tuple[str, ...]:
    """Return the label names in index order from id2label, or LABEL_0 .. for num_labels (default 2).

    Names keep blanks at their ends. Names that label2id has but id2label has not are ignored.
    Raises: InputError for labels that are not numbered 0 .. C - 1, for names that are equal without the blanks at their
    ends, as the labels of rows have none, and for a label2id that contradicts id2label.
    """
    names = raw.get("id2label")
    if names is None:
        count = 2 if raw.get("num_labels") is None else raw["num_labels"]
        if type(count) is not int or count < 1:
            raise InputError(f"{where}: num_labels must be a positive integer, but is {count!r}")
        return tuple(f"LABEL_{i}" for i in range(count))
    if not isinstance(names, dict) or {str(key) for key in names} != {str(i) for i in range(len(names))}:
        raise InputError(f"{where}: id2label must map 0 .. {len(names) - 1} to names, but is {names!r}")
    labels = tuple(str(names[str(i)]) for i in range(len(names)))
    stripped = [label.strip() for label in labels]
    if len(set(stripped)) != len(labels):
        raise InputError(
            f"{where}: id2label gives one name to two labels, blanks at the ends aside: "
            f"{', '.join(map(repr, labels))}; rename one of them"
        )
    refuse_contradiction(stripped, raw.get("label2id"), where)
    return labels


def refuse_contradiction(labels: Sequence[str], numbers: object, where: Path) -> None:
    """Check that label2id, `numbers`, gives no name of id2label another number; `labels` are those names in order.

    Raises: InputError if it does.
    """
    stated = {name.strip(): number for name, number in numbers.items()} if isinstance(numbers, dict) else {}
    wrong = [at for at, label in enumerate(labels) if label in stated and stated[label] not in (at, str(at))]
    if wrong:
        here = ", ".join(f"{labels[at]!r} is {at}" for at in wrong)
        there = ", ".join(f"{labels[at]!r} is {stated[labels[at]]}" for at in wrong)
        raise InputError(
            f"{where}: id2label and label2id contradict each other: in id2label {here}, in label2id {there}; correct "
            "the wrong one"
        )


def alike(first: Head, second: Head) -> bool:
    """Whether two heads have the same kind and, apart from blanks at their ends, the same labels in the same order."""
    labels = [[label.strip() for label in head.labels] for head in (first, second)]
    return first.kind == second.kind and labels[0] == labels[1]


def label_fields(head: Head) -> dict[str, Any]:
    """Return the config.json fields that describe a head."""
    labels = head.labels or ("LABEL_0",)
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": KINDS[head.kind].problem,
    }


def write_record(heads: Mapping[str, Head], primary: str | None, max_length: int | None = None) -> dict[str, Any]:
    """Return the content of fft_heads.json; the arguments are fields of a Checkpoint."""
    return {
        "primary": primary,
        "heads": {name: {"kind": head.kind, "labels": list(head.labels)} for name, head in heads.items()},
        **({} if max_length is None else {"max_length": max_length}),
    }


def read_record(record: dict[str, Any], where: Path) -> tuple[dict[str, Head], str | None]:
    """Return ({name: Head}, primary) from the content of fft_heads.json.

    Raises: InputError if it is not what fft writes.
    """
    try:
        heads = {name: Head(head["kind"], tuple(head["labels"])) for name, head in record["heads"].items()}
        primary = record["primary"]
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{where} is damaged: expected primary and heads with kind and labels each") from None
    valid = all(head.kind in KINDS and KINDS[head.kind].named == bool(head.labels) for head in heads.values())
    if not valid or (primary is not None and primary not in heads):
        raise InputError(f"{where} is damaged: a head has no known kind, or the primary head is not listed")
    return heads, primary


def stored_length(folder: Path) -> int | None:
    """Return the max_length in a folder's fft_heads.json, None without the file or the entry.

    Raises: InputError if it is not a positive integer.
    """
    where = folder / HEADS_JSON
    max_length = read_json(where).get("max_length") if where.is_file() else None
    if max_length is not None and not (type(max_length) is int and max_length > 0):
        raise InputError(f"{where} is damaged: max_length must be a positive integer, but is {max_length!r}")
    return max_length


def check_name(name: str) -> None:
    """Check that a head's name can be part of a parameter path. Raises: InputError if not."""
    if not re.fullmatch(r"[^/.\s][^/.]*", name):
        raise InputError(f"a head cannot be called {name!r}: it may not be empty or hold a slash or a dot")


def width(head: Head) -> int:
    """Return the number of outputs C of a head."""
    return len(head.labels) or 1
