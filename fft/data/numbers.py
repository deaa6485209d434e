"""Tells numbers (1 and 1.0 are one class, 0.5 is none) and spellings of missing values apart in a data file."""

import re
from collections.abc import Sequence

INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_DIGITS = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)([eE][-+]?[0-9]+)?")
_COMMA = re.compile(r"[-+]?[0-9.]*,[0-9]+([eE][-+]?[0-9]+)?")
_EXACT = 2.0**53  # beyond this, floats skip whole numbers


def is_number(text: str) -> bool:
    """Whether a label is a number, whole or not."""
    return bool(_FLOAT.fullmatch(text)) or text in ("inf", "-inf")


def whole(text: str) -> int | None:
    """Return the whole number of a label written as 1, 1.0 or 1e0; None for names, fractions and codes such as 007."""
    if INTEGER.fullmatch(text):
        return int(text)
    if _DIGITS.fullmatch(text) or not _FLOAT.fullmatch(text):
        return None
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < _EXACT else None


def is_fraction(text: str) -> bool:
    """Whether a label is a number that cannot be a class number."""
    return is_number(text) and not _DIGITS.fullmatch(text) and whole(text) is None


def is_code(text: str) -> bool:
    """Whether a label is digits but no plain whole number, such as 007 or +1."""
    return bool(_DIGITS.fullmatch(text)) and not INTEGER.fullmatch(text)


def has_comma(text: str) -> bool:
    """Whether a label seems to be a number with a decimal comma."""
    return bool(_COMMA.fullmatch(text))


def without_point(texts: Sequence[str]) -> list[str]:
    """Return the labels; if all are whole numbers and some have a decimal point, return all of them without."""
    numbers = [whole(text) for text in texts]
    if all(map(_DIGITS.fullmatch, texts)) or None in numbers:
        return list(texts)
    return list(map(str, numbers))


SPELLINGS = frozenset(
    ("NA", "N/A", "n/a", "nan", "NaN", "null", "NULL", "None", "none", r"\N", "<NA>", "#N/A")
)  # case matters: a class may be named na


def is_missing(value: str | int | float) -> bool:
    """Whether a label or a text, stripped of blanks, is a spelling of a missing value."""
    return str(value).strip() in SPELLINGS
