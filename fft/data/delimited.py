"""The strict reader of CSV and TSV: a stray quote, a ragged row or a doubled column is refused, with its place."""

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
    """The rows of a file with a header line, whose fields stand between delimiters, comma or tab.

    Columns that are not read may have any name, or none. Raises: InputError naming file, row and column.
    """
    text = decoded(path)
    _check_header(path, text, columns, delimiter)
    records = _records(path, io.StringIO(text, newline=""), delimiter)
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
                number = " A number is written with a point, 0.5." if _splits_a_number(fields, delimiter) else ""
                raise InputError(
                    f"{path}, {place}: expected {len(header)} fields ({', '.join(header)}), got {len(fields)}. "
                    f"A {'comma' if delimiter == ',' else 'tab'} inside a text needs quotes around it.{number}"
                )
            swallowed.see(number, line, raw, fields)
            yield place, dict(zip(header, fields, strict=True))

    found = collect(str(path), columns, rows())
    swallowed.check()
    return found


def _check_header(path: Path, text: str, columns: Columns, delimiter: str) -> None:
    """Raise InputError where the first line is no header between `delimiter`s, and it can be told what it is."""
    line, wanted = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0], set(columns.named())
    excel = re.fullmatch(r'"?sep=(.)"?[,;\t]*', line.strip())
    if excel and excel[1] == delimiter:
        raise InputError(f"{path}, line 1: {line!r} is a word to Excel, and no header. Remove the line.")
    names = _names(line, delimiter)
    if wanted <= set(names):
        return
    if line.lstrip()[:1] in ("{", "[") and (told := other_json(path, text, columns)):
        raise InputError(told)
    apart = {mark: _names(line, mark) for mark in _ENDINGS}
    fitting = [mark for mark in apart if wanted <= set(apart[mark]) or len(names) == 1 < len(apart[mark])]
    if excel or fitting:
        mark = excel[1] if excel else fitting[0]
        advice = f"Rename it {_ENDINGS[mark]}" if _ENDINGS.get(mark) else "Save it with commas, or with tabs as .tsv"
        raise InputError(
            f"{path}, line 1: the columns seem to be separated by {mark!r}, and not by {delimiter!r}: {line[:80]!r}. "
            f"{advice}."
        )


def _names(line: str, delimiter: str) -> list[str]:
    """The names in a header line, quoted or not; without commas inside names, which only a reader of CSV can tell."""
    return [name.strip().strip('"').strip() for name in line.split(delimiter)]


def _splits_a_number(fields: list[str], delimiter: str) -> bool:
    """Whether two fields side by side may be one number with a decimal comma."""
    return delimiter == "," and any(one.strip().isdigit() and two.strip().isdigit() for one, two in pairwise(fields))


def _records(path: Path, lines: io.StringIO, delimiter: str) -> Iterator[tuple[int, str, list[str]]]:
    """(first line, raw text, fields) of every record that is not an empty line."""
    held: list[str] = []

    def kept() -> Iterator[str]:
        for line in lines:
            held.append(line)
            yield line

    csv.field_size_limit(_LONGEST_FIELD)
    reader, first = csv.reader(kept(), delimiter=delimiter, strict=True), 1
    advice = _advice(path, delimiter)
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


def _advice(path: Path, delimiter: str) -> str:
    """What to do about a stray quote. GLUE and its like have tab-separated files in which a quote is a letter."""
    advice = 'Write a text with quotes as "he said ""hi""".'
    if delimiter == ",":
        return advice
    return f"{advice} Files without quoting are not read; this writes it anew: {with_quotes(path)}"


class _Swallowed:
    """Finds a pair of stray quotes that makes one legal field out of several rows.

    Suspect: a record over several lines, each of which, its quotes taken as plain characters, is a row with as many
    fields as the header and a label that one-line rows have too. Rows without labels are never suspect.
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
