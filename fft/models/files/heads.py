"""What the heads of a checkpoint predict: Hugging Face's label fields, and our record of several heads.

Hugging Face knows one head. The others travel beside it in `fft_heads.safetensors`, under our own paths, and
`fft_heads.json` names all of them; Hugging Face ignores both files.
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
ORIGINAL = "original"  # the name of a head that came without one


def classifier_of(raw: dict[str, Any], family: Family, where: Path) -> Head:
    """Return the Head a config.json describes for the stored classifier.

    One output is regression unless problem_type says otherwise, as in transformers. Raises: InputError for the
    classifier of another kind of model (its tensors have the same names), for multi-label heads, and for labels
    that are not numbered 0 .. C - 1.
    """
    wanted = f"{family.architecture}ForSequenceClassification"
    architectures = raw.get("architectures") or [wanted]
    if wanted not in architectures:
        raise InputError(
            f"{where}: the checkpoint has a classifier, but of {', '.join(map(str, architectures))}, not {wanted}; "
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

    Blanks at the ends of names are kept, but two names that are equal without them are refused: labels of rows have
    none. So is a label2id that numbers a name of id2label otherwise; other names there change nothing.
    """
    named = raw.get("id2label")
    if named is None:
        count = 2 if raw.get("num_labels") is None else raw["num_labels"]
        if type(count) is not int or count < 1:
            raise InputError(f"{where}: num_labels must be a positive integer, but is {count!r}")
        return tuple(f"LABEL_{i}" for i in range(count))
    if not isinstance(named, dict) or {str(key) for key in named} != {str(i) for i in range(len(named))}:
        raise InputError(f"{where}: id2label must map 0 .. {len(named) - 1} to names, but is {named!r}")
    labels = tuple(str(named[str(i)]) for i in range(len(named)))
    bare = [label.strip() for label in labels]
    if len(set(bare)) != len(labels):
        named = ", ".join(map(repr, labels))
        raise InputError(
            f"{where}: id2label gives one name to two labels, blanks at the ends aside: {named}; rename one of them"
        )
    refuse_contradiction(bare, raw.get("label2id"), where)
    return labels


def refuse_contradiction(labels: Sequence[str], numbers: object, where: Path) -> None:
    """Refuse a label2id that gives a name of id2label, `labels` in order, another number."""
    stated = {name.strip(): number for name, number in numbers.items()} if isinstance(numbers, dict) else {}
    wrong = [at for at, label in enumerate(labels) if label in stated and stated[label] not in (at, str(at))]
    if wrong:
        here = ", ".join(f"{labels[at]!r} is {at}" for at in wrong)
        there = ", ".join(f"{labels[at]!r} is {stated[labels[at]]}" for at in wrong)
        raise InputError(
            f"{where}: id2label and label2id contradict each other: in id2label {here}, in label2id {there}; mend the "
            "one that is wrong"
        )


def alike(one: Head, other: Head) -> bool:
    """Whether two heads predict the same: of one kind, with the same labels in order, blanks at their ends aside."""
    bare = [[label.strip() for label in head.labels] for head in (one, other)]
    return one.kind == other.kind and bare[0] == bare[1]


def label_fields(head: Head) -> dict[str, Any]:
    """The config.json fields that describe a head."""
    labels = head.labels or ("LABEL_0",)
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": KINDS[head.kind].problem,
    }


def write_record(heads: Mapping[str, Head], primary: str | None, max_length: int | None = None) -> dict[str, Any]:
    """The content of fft_heads.json; `max_length` is as of a Checkpoint."""
    return {
        "primary": primary,
        "heads": {name: {"kind": head.kind, "labels": list(head.labels)} for name, head in heads.items()},
        **({} if max_length is None else {"max_length": max_length}),
    }


def read_record(record: dict[str, Any], where: Path) -> tuple[dict[str, Head], str | None]:
    """Return ({name: Head}, primary) from the content of fft_heads.json, or refuse what we never write."""
    try:
        heads = {name: Head(each["kind"], tuple(each["labels"])) for name, each in record["heads"].items()}
        primary = record["primary"]
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{where} is damaged: expected primary and heads with kind and labels each") from None
    sound = all(each.kind in KINDS and KINDS[each.kind].named == bool(each.labels) for each in heads.values())
    if not sound or (primary not in heads if heads else primary is not None):
        raise InputError(f"{where} is damaged: a head has no known kind, or the primary head is not listed")
    return heads, primary


def stored_length(folder: Path) -> int | None:
    """Return the max_length that fft_heads.json of a folder states, None where it does not or is not there."""
    where = folder / HEADS_JSON
    found = read_json(where).get("max_length") if where.is_file() else None
    if found is not None and not (type(found) is int and found > 0):
        raise InputError(f"{where} is damaged: max_length must be a positive integer, but is {found!r}")
    return found


def check_name(name: str) -> None:
    """Refuse head names that cannot be part of a parameter path."""
    if not re.fullmatch(r"[^/.\s][^/.]*", name):
        raise InputError(f"a head cannot be called {name!r}: it may not be empty or hold a slash or a dot")


def width(head: Head) -> int:
    """The number of outputs C of a head."""
    return len(head.labels) or 1
