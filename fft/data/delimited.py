"""Strict reader of CSV and TSV: rejects stray quotes, ragged rows and duplicate columns, with their position."""

import csv
import io
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from fft.core.errors import InputError
from fft.data.content import decoded
from fft.data.convert import with_quotes
from fft.data.jsonlines import other_json
from fft.data.rows import Columns, Rows, collect, require_columns

_QUOTED = r'"(?:[^"]|"")*"'
_CSV_RECORD = re.compile(rf'(?:{_QUOTED}|[^",\r\n]*)(?:,(?:{_QUOTED}|[^",\r\n]*))*[\r\n]*')
_ENDINGS = {",": ".csv", "\t": ".tsv", ";": "", "|": ""}
_LONGEST_FIELD = 2**31 - 1


def read_delimited(path: Path, columns: Columns, delimiter: str) -> Rows:
    """Read a file with a header line and fields separated by `delimiter`, comma or tab.

    Columns that are not read may have any name or none. Raises: InputError naming file, row and column.
    """
    text = decoded(path)
    _check_header(path, text, columns, delimiter)
    records = _records(path, io.StringIO(text, newline=""), delimiter)
    _, _, header = next(records)
    header = [name.strip() for name in header]
    require_columns(str(path), header, columns)
    label = None if columns.label is None else header.index(columns.label)
    swallowed = _SwallowedRows(path, label, len(header), delimiter)

    def rows() -> Iterator[tuple[str, dict]]:
        for number, (line, raw, fields) in enumerate(records, 1):
            place = f"row {number} (line {line})"
            if not any(map(str.strip, fields)):
                yield place, dict.fromkeys(header, "")
                continue
            if len(fields) != len(header):
                number = " A number is written with a point, 0.5." if _splits_a_number(fields, delimiter) else ""
                raise InputError(
                    f"{path}, {place}: expected {len(header)} fields ({', '.join(header)}), got {len(fields)}. "
                    f"A {'comma' if delimiter == ',' else 'tab'} inside a text needs quotes around it.{number}"
                )
            swallowed.see(number, line, raw, fields)
            yield place, dict(zip(header, fields, strict=True))

    result = collect(str(path), columns, rows())
    swallowed.check()
    return result


def _check_header(path: Path, text: str, columns: Columns, delimiter: str) -> None:
    """Reject a first line that is not a header with `delimiter`, if its actual format is known. Raises: InputError."""
    line, required = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0], set(columns.named())
    excel = re.fullmatch(r'"?sep=(.)"?[,;\t]*', line.strip())
    if excel and excel[1] == delimiter:
        raise InputError(f"{path}, line 1: {line!r} is an Excel directive, not a header. Remove the line.")
    names = _names(line, delimiter)
    if required <= set(names):
        return
    if line.lstrip()[:1] in ("{", "[") and (problem := other_json(path, text, columns)):
        raise InputError(problem)
    names_by_mark = {mark: _names(line, mark) for mark in _ENDINGS}
    fitting = [
        mark
        for mark in names_by_mark
        if required <= set(names_by_mark[mark]) or len(names) == 1 < len(names_by_mark[mark])
    ]
    if excel or fitting:
        mark = excel[1] if excel else fitting[0]
        advice = f"Rename it {_ENDINGS[mark]}" if _ENDINGS.get(mark) else "Save it with commas, or with tabs as .tsv"
        raise InputError(
            f"{path}, line 1: the columns seem to be separated by {mark!r}, not by {delimiter!r}: {line[:80]!r}. "
            f"{advice}."
        )


def _names(line: str, delimiter: str) -> list[str]:
    """Return the names in a header line, quoted or not; a name with a delimiter inside quotes is not supported."""
    return [name.strip().strip('"').strip() for name in line.split(delimiter)]


def _splits_a_number(fields: list[str], delimiter: str) -> bool:
    """Whether two adjacent fields may be one number with a decimal comma."""
    return delimiter == "," and any(
        left.strip().isdigit() and right.strip().isdigit() for left, right in pairwise(fields)
    )


def _records(path: Path, lines: io.StringIO, delimiter: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (first line number, raw text, fields) of every record except empty lines. Raises: InputError."""
    raw_lines: list[str] = []

    def recorded() -> Iterator[str]:
        for line in lines:
            raw_lines.append(line)
            yield line

    csv.field_size_limit(_LONGEST_FIELD)
    reader, first = csv.reader(recorded(), delimiter=delimiter, strict=True), 1
    advice = _advice(path, delimiter)
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = "a quote is never closed" if "end of data" in str(error) else f"stray quote ({error})"
            raise InputError(f"{path}, the row that starts at line {first}: {what}. {advice}") from None
        raw = "".join(raw_lines)
        raw_lines.clear()
        if delimiter == "," and '"' in raw and not _CSV_RECORD.fullmatch(raw):
            raise InputError(f"{path}, line {first}: stray quote in an unquoted field. {advice}")
        if fields:
            yield first, raw, fields
        first = reader.line_num + 1


def _advice(path: Path, delimiter: str) -> str:
    """Return the remedy for a stray quote; the tab-separated files of GLUE use quotes as plain characters."""
    advice = 'Write a text with quotes as "he said ""hi""".'
    if delimiter == ",":
        return advice
    return f"{advice} If the file has no quoting, convert it: {with_quotes(path)}"


class _SwallowedRows:
    """Detects a pair of stray quotes that turns several rows into one valid field.

    A record over several lines is suspect if each line, with quotes as plain characters, is a row with as many fields
    as the header and a label that also occurs in one-line rows. Rows without labels are never suspect.
    """

    def __init__(self, path: Path, label: int | None, width: int, delimiter: str) -> None:
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
                    f"one. {_advice(self.path, self.delimiter)}"
                )
