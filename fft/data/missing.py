"""Spellings of missing values, as R, pandas and databases write them."""

from collections import Counter
from collections.abc import Collection

from fft.core.errors import InputError
from fft.core.naming import counted
from fft.data.numbers import is_missing, is_number
from fft.data.rows import Label, Rows


def among_numbers(rows: Rows) -> bool:
    """Whether some labels read like missing values and all others are numbers; then the former are not classes."""
    others = [str(label) for label in rows.labels if not is_missing(label)]
    return len(others) < len(rows.labels) and all(map(is_number, others))


def present(rows: Rows) -> Rows:
    """Return the rows whose labels do not read like missing values."""
    return rows.take(at for at, label in enumerate(rows.labels) if not is_missing(label))


def refuse_missing(rows: Rows, what: str = "label", known: Collection[str] = ()) -> None:
    """Reject labels that read like missing values.

    Class names in `known`, in any case, are accepted. `what` is the word for a label in the message.

    Raises: InputError with the first such row and their number.
    """
    known = {name.casefold() for name in known}
    missing = [
        (number, str(label))
        for number, label in zip(rows.numbers, rows.labels, strict=True)
        if is_missing(label) and str(label).casefold() not in known
    ]
    if missing:
        number, spelling = min(missing)
        count = f"it is the only such {what}" if len(missing) == 1 else f"{len(missing)} rows have such a {what}"
        raise InputError(
            f"{rows.source}, row {number}: the {what} '{spelling}' reads like a missing value; {count}. Remove the "
            "rows or fill them in."
        )


def missing_labels(rows: Rows) -> list[str]:
    """Return a sentence for each spelling of a missing value among the labels."""
    return _sentences(("row has the label", "rows have the label"), rows.labels)


def missing_texts(rows: Rows) -> list[str]:
    """Return a sentence for each spelling of a missing value among the texts, or the second texts of pairs."""
    seconds = "second text is", "second texts are"
    return _sentences(("text is", "texts are"), rows.texts) + _sentences(seconds, rows.pairs or ())


def _sentences(are: tuple[str, str], values: Collection[Label]) -> list[str]:
    counts = Counter(str(value).strip() for value in values if is_missing(value))
    return [f"{counted(counts[s], *are)} '{s}', which reads like a missing value" for s in sorted(counts)]
