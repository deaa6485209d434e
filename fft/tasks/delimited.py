"""The strict reader of CSV and TSV: a stray quote, a ragged row or a doubled column is refused, with its place."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from fft.errors import InputError
from fft.tasks.content import decoded
from fft.tasks.rows import Columns, Rows, collect, require_columns

_QUOTED = r'"(?:[^"]|"")*"'
_CSV_RECORD = re.compile(rf'(?:{_QUOTED}|[^",\r\n]*)(?:,(?:{_QUOTED}|[^",\r\n]*))*[\r\n]*')
_LONGEST_FIELD = 2**31 - 1


def read_delimited(path: Path, columns: Columns, delimiter: str) -> Rows:
    """The rows of a file with a header line, whose fields stand between delimiters, comma or tab.

    Columns that are not read may have any name, or none. Raises InputError naming file, row and column.
    """
    records = _records(path, io.StringIO(decoded(path), newline=""), delimiter)
    _, _, header = next(records)
    header = [name.strip() for name in header]
    require_columns(str(path), header, columns)
    label = None if columns.label is None else header.index(columns.label)
    swallowed = _Swallowed(path, label, len(header), delimiter)

    def rows() -> Iterator[tuple[str, dict]]:
        for number, (line, raw, fields) in enumerate(records, 1):
            place = f"row {number} (line {line})"
            if not any(map(str.strip, fields)):
                yield place, dict.fromkeys(header, "")
                continue
            if len(fields) != len(header):
                raise InputError(
                    f"{path}, {place}: expected {len(header)} fields ({', '.join(header)}), got {len(fields)}. "
                    f"A {'comma' if delimiter == ',' else 'tab'} inside a text needs quotes around it."
                )
            swallowed.see(number, line, raw, fields)
            yield place, dict(zip(header, fields, strict=True))

    found = collect(str(path), columns, rows())
    swallowed.check()
    return found


def _records(path: Path, lines: io.StringIO, delimiter: str) -> Iterator[tuple[int, str, list[str]]]:
    """(first line, raw text, fields) of every record that is not an empty line."""
    held: list[str] = []

    def kept() -> Iterator[str]:
        for line in lines:
            held.append(line)
            yield line

    csv.field_size_limit(_LONGEST_FIELD)
    reader, first = csv.reader(kept(), delimiter=delimiter, strict=True), 1
    advice = 'Write a text with quotes as "he said ""hi""".'
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = "a quote is opened and never closed" if "end of data" in str(error) else f"stray quote ({error})"
            raise InputError(f"{path}, the row that starts at line {first}: {what}. {advice}") from None
        raw = "".join(held)
        held.clear()
        if delimiter == "," and '"' in raw and not _CSV_RECORD.fullmatch(raw):
            raise InputError(f"{path}, line {first}: stray quote inside a field that is not quoted. {advice}")
        if fields:
            yield first, raw, fields
        first = reader.line_num + 1


class _Swallowed:
    """Finds a pair of stray quotes that makes one legal field out of several rows.

    Suspect: a record over several lines, each of which, its quotes taken as plain characters, is a row with as many
    fields as the header and a label that one-line rows have too. Rows without labels are never suspect.
    """

    def __init__(self, path: Path, label: int | None, width: int, delimiter: str):
        self.path, self.label, self.width, self.delimiter = path, label, width, delimiter
        self.labels: set[str] = set()
        self.suspects: list[tuple[int, int, list[str]]] = []

    def see(self, number: int, line: int, raw: str, fields: list[str]) -> None:
        if self.label is None:
            return
        parts = [part for part in re.split(r"[\r\n]+", raw) if part]
        if len(parts) < 2:
            self.labels.add(fields[self.label])
            return
        naive = [part.split(self.delimiter) for part in parts]
        if all(len(fields) == self.width for fields in naive):
            self.suspects.append((number, line, [fields[self.label].strip('"') for fields in naive]))

    def check(self) -> None:
        for number, line, labels in self.suspects:
            if self.labels.issuperset(labels):
                raise InputError(
                    f"{self.path}, row {number} (line {line}): a pair of stray quotes joins {len(labels)} rows into "
                    'one. Write a text with quotes as "he said ""hi""".'
                )
