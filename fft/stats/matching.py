"""Whether an answer is right: its text or its last number is that of the expected one, after a normalisation."""

import re
import string
import unicodedata
from collections.abc import Callable
from decimal import Decimal

ARTICLES = re.compile(r"\b(a|an|the)\b")
SIGN = r"(?<![\w.)\]])[-+]"  # elsewhere it is a hyphen, or subtracts
WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
NUMBER = re.compile(rf"(?:{SIGN})?(?:{WHOLE}(?:\.\d*)?|(?<!\d)\.\d+)(?:[eE][-+]?\d{{1,9}}(?!\d))?")
PART = re.compile(r"\d[./:^]$")
"""the end of a text of which the number behind it is a part: a fraction, a date, a time, a power"""
PUNCTUATION = str.maketrans("", "", string.punctuation)


def plain(text: str) -> str:
    """Return the text in Unicode's composed form (NFC), with single blanks and none at its ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def squad(text: str) -> str:
    """Return the text in lower case, without punctuation and the articles a, an, the, with single blanks.

    The normalisation of SQuAD's evaluation script (Rajpurkar et al. 2016, arXiv 1606.05250).

    >>> squad("The  Eiffel Tower.")
    'eiffel tower'
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def last_number(text: str) -> Decimal | None:
    """Return the last number in the text, without commas between thousands; None if there is none, and for one that is
    part of a fraction, a date, a time, a power.

    >>> last_number("12 + 7 is 19."), last_number("$1,250.50 in all"), last_number("-3 < x <= 2"), last_number("none")
    (Decimal('19'), Decimal('1250.50'), Decimal('2'), None)
    >>> last_number("1,2,3"), last_number("5-3"), last_number("1/2")
    (Decimal('3'), Decimal('3'), None)
    """
    text = text.replace("−", "-")
    found = list(NUMBER.finditer(text))
    if not found or PART.search(text[: found[-1].start()]):
        return None
    return Decimal(found[-1].group().replace(",", "").rstrip("."))


COMPARED: dict[str, Callable[[str], str | Decimal | None]] = {
    "exact_match": plain,
    "squad_match": squad,
    "number_match": last_number,
}
"""by the name of the metric: what of a text is compared; "" or None where there is nothing"""


def is_right(metric: str, answer: str, expected: str) -> bool:
    """Whether an answer is the expected one; never if nothing of that can be compared."""
    value = COMPARED[metric](expected)
    return value not in ("", None) and COMPARED[metric](answer) == value
