"""What things are called: the original tasks of a run ("original", "original_2", …), and so many things of a kind."""

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


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number with what it counts, `many` being `one` with an s unless it is given.

    >>> counted(1, "text"), counted(4934, "text is", "texts are")
    ('1 text', '4,934 texts are')
    """
    return f"{count:,} {agreeing(count, one, many or f'{one}s')}"


def agreeing(count: int, one: str, many: str) -> str:
    """The words that go with so many things."""
    return one if count == 1 else many
