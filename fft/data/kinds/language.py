"""The part of the Kind interface that is the same for all texts whose tokens are predicted."""

from typing import Any, ClassVar

from fft.core.naming import counted
from fft.data.kinds.kind import EncodedRows, Kind
from fft.data.marks import marked
from fft.data.rows import Rows
from fft.data.tokenize import EncodeOptions, Tokenizer
from fft.tasks import Language, Task


class LanguageKind(Kind):
    """Reads rows as sequences of tokens, some of which are supervised."""

    predicts = "language"
    metric = "nats"
    what = "token"
    length = 1024  # the bound of the default, which is the longest row: rows are padded to lengths that occur
    unit: ClassVar[str]
    """the word for a row in messages"""

    def unit_of(self, rows: Rows) -> str:
        """Return the word for one of these rows in messages: parts of a longer text are blocks."""
        return self.unit if rows.complete else "block"

    def task(self, name: str, labels: tuple[str, ...] | None, metric: str, rows: Rows) -> Task:
        return Language(name, metric)

    def divided(self, rows: Rows, long: int, parts: str, options: EncodeOptions) -> str:
        """Return a note on the `long` rows that exceed the limit and are cut into `parts`, as "3 windows"."""
        return f"{counted(long, self.unit_of(rows))} longer than {options.max_length:,} tokens, cut into {parts}"

    def shown(self, tokenizer: Tokenizer, result: EncodedRows) -> list[str]:
        rows = result.encoded
        row = f"row {rows.numbers[0]}, supervised tokens in ⟦ ⟧: {marked(tokenizer, rows)!r}"
        return [_share(result, self.unit_of(result.rows)), row]

    def unwatched(self, metric: str) -> str | None:
        if metric == self.metric:
            return None
        return f"is in nats a token, and the metric is {metric}: leave the metric out, or the contract"

    def least_rows(self, drop: float) -> int:
        return 2

    def refusal(self, rows: Rows) -> str:
        return ""

    def summary(self, rows: Rows) -> dict[str, Any]:
        return {"labels": {}}

    def values(self, rows: Rows) -> list[Any]:
        return [0] * len(rows.texts)


def _share(result: EncodedRows, unit: str) -> str:
    """Return a note with the number of tokens, the share of them that are supervised, and, if no row was longer than
    the limit, the length of the longest.
    """
    rows = result.encoded
    counts = rows.target_counts()
    assert counts is not None  # the rows of a language task have targets
    tokens, supervised = int(rows.lengths().sum()), int(counts.sum())
    return (
        f"{counted(len(rows.labels), unit)} of {counted(tokens, 'token')}, {supervised:,} of them supervised "
        f"({100 * supervised / tokens:.0f} %)"
        + ("" if result.long else f"; rows of up to {counted(int(rows.lengths().max()), 'token')}, none cut")
    )
