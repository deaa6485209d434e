"""What the original tasks of a run are called: "original", "original_2", … in its records, histories and messages."""

from collections.abc import Iterable

ORIGINAL = "original"


def numbered(name: str, count: int) -> tuple[str, ...]:
    """A name for each of `count` things of one kind.

    >>> numbered("original", 3)
    ('original', 'original_2', 'original_3')
    """
    return tuple(name if number == 1 else f"{name}_{number}" for number in range(1, count + 1))


def original_names(names: Iterable[str]) -> list[str]:
    """Those that are an original task's, in their order."""
    return [name for name in names if name == ORIGINAL or name.startswith(f"{ORIGINAL}_")]
