"""Values that read as though there were none: what R, pandas and databases write where a value is missing."""

from collections import Counter
from collections.abc import Collection

from fft.core.errors import InputError
from fft.core.naming import counted
from fft.data.numbers import is_missing, is_number
from fft.data.rows import Label, Rows


def among_numbers(rows: Rows) -> bool:
    """Whether some labels read like missing values and all others are numbers: then these are no classes."""
    others = [str(label) for label in rows.labels if not is_missing(label)]
    return len(others) < len(rows.labels) and all(map(is_number, others))


def present(rows: Rows) -> Rows:
    """The rows whose labels do not read like missing values."""
    return rows.take(at for at, label in enumerate(rows.labels) if not is_missing(label))


def refuse_missing(rows: Rows, what: str = "label", known: Collection[str] = ()) -> None:
    """Raise InputError, with the first row and their number, where labels read like missing values.

    Names of classes that are `known`, in any case, are none. `what` a label is called in the message.
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
    """A sentence for each spelling that stands among the labels."""
    return _told(("row has the label", "rows have the label"), rows.labels)


def missing_texts(rows: Rows) -> list[str]:
    """A sentence for each spelling that stands in place of a text, or of the second text of a pair."""
    seconds = "second text is", "second texts are"
    return _told(("text is", "texts are"), rows.texts) + _told(seconds, rows.pairs or ())


def _told(are: tuple[str, str], values: Collection[Label]) -> list[str]:
    counts = Counter(str(value).strip() for value in values if is_missing(value))
    return [f"{counted(counts[s], *are)} '{s}', which reads like a missing value" for s in sorted(counts)]
