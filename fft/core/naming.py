"""Names of a run's original tasks ("original", "original_2", …) and of heads; counts with their nouns in messages."""

from collections.abc import Iterable, Iterator
from itertools import chain, count, islice

ORIGINAL = "original"
UNEMBED = "unembed"
"""the head that predicts tokens: its name, and that of its parameters"""


def head_path(name: str) -> str:
    """Return the path, with a slash, under which the parameters of a head are."""
    return f"{UNEMBED}/" if name == UNEMBED else f"heads/{name}/"


def names_from(name: str) -> Iterator[str]:
    """Yield different names that begin with `name`: name, name_2, name_3, …"""
    return chain([name], (f"{name}_{number}" for number in count(2)))


def numbered(name: str, size: int) -> tuple[str, ...]:
    """Return the first `size` of the names that begin with `name`.

    >>> numbered("original", 3)
    ('original', 'original_2', 'original_3')
    """
    return tuple(islice(names_from(name), size))


def original_names(names: Iterable[str]) -> list[str]:
    """Return the names of original tasks among `names`, in order."""
    return [name for name in names if name == ORIGINAL or name.startswith(f"{ORIGINAL}_")]


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Return a count with its noun; the plural defaults to the singular with an s.

    >>> counted(1, "text"), counted(4934, "text is", "texts are")
    ('1 text', '4,934 texts are')
    """
    return f"{number:,} {agreeing(number, singular, plural or f'{singular}s')}"


def agreeing(number: int, singular: str, plural: str) -> str:
    """Return the singular for a number of 1, else the plural."""
    return singular if number == 1 else plural
