"""Whether an answer is right: its text or its last number is that of the expected one, after a normalisation."""

import re
import string
import unicodedata
from collections.abc import Callable
from decimal import Decimal

ARTICLES = re.compile(r"\b(a|an|the)\b")
NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
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
    """Return the last number in the text, without commas between digits; None if there is none.

    >>> last_number("12 + 7 is 19."), last_number("$1,250.50 in all"), last_number("-3 < x <= 2"), last_number("none")
    (Decimal('19'), Decimal('1250.50'), Decimal('2'), None)
    """
    found = NUMBER.findall(text.replace("−", "-"))
    return Decimal(found[-1].replace(",", "").rstrip(".")) if found else None


def same_number(answer: str, expected: str) -> bool:
    """Whether the last numbers of both are equal; never without one in the expected answer."""
    number = last_number(expected)
    return number is not None and last_number(answer) == number


MATCHES: dict[str, Callable[[str, str], bool]] = {
    "exact_match": lambda answer, expected: plain(answer) == plain(expected),
    "squad_match": lambda answer, expected: squad(answer) == squad(expected),
    "number_match": same_number,
}
"""by the name of the metric: whether an answer [str] is the expected one"""
