"""Names of a run's original tasks ("original", "original_2", …), and counts with their nouns in messages."""

from collections.abc import Iterable

ORIGINAL = "original"


def numbered(name: str, count: int) -> tuple[str, ...]:
    """Return `count` different names that begin with `name`.

    >>> numbered("original", 3)
    ('original', 'original_2', 'original_3')
    """
    return tuple(name if number == 1 else f"{name}_{number}" for number in range(1, count + 1))


def original_names(names: Iterable[str]) -> list[str]:
    """Return the names of original tasks among `names`, in order."""
    return [name for name in names if name == ORIGINAL or name.startswith(f"{ORIGINAL}_")]


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Return a count with its noun; the plural defaults to the singular with an s.

    >>> counted(1, "text"), counted(4934, "text is", "texts are")
    ('1 text', '4,934 texts are')
    """
    return f"{count:,} {agreeing(count, singular, plural or f'{singular}s')}"


def agreeing(count: int, singular: str, plural: str) -> str:
    """Return the singular for a count of 1, else the plural."""
    return singular if count == 1 else plural
