"""Strict readers of local files: CSV, TSV, JSONL, Parquet. What cannot be read for sure is refused, with its place.

A lenient reader turns one stray quote into lost rows and a column of mixed types into wrong labels, silently.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

from fft.errors import InputError, MachineError
from fft.record import parsed
from fft.tasks.rows import Columns, Rows, collect, require_columns

_QUOTED = r'"(?:[^"]|"")*"'
_CSV_RECORD = re.compile(rf'(?:{_QUOTED}|[^",\r\n]*)(?:,(?:{_QUOTED}|[^",\r\n]*))*[\r\n]*')
_LONGEST_FIELD = 2**31 - 1


def read_file(path: Path, columns: Columns) -> Rows:
    """The rows of one file; its ending decides the format: .csv, .tsv, .jsonl or .ndjson, .parquet, .txt.

    CSV and TSV have a header line; a field may be quoted with " and then hold delimiters and line ends. A .txt file
    has a text a line, in a column called text, and no labels.
    Raises InputError naming file, row and column.
    """
    readers = {
        ".csv": lambda path, columns: _read_delimited(path, columns, ","),
        ".tsv": lambda path, columns: _read_delimited(path, columns, "\t"),
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
        ".parquet": _read_parquet,
        ".txt": _read_lines,
    }
    ending = path.suffix.lower()
    if ending not in readers:
        raise InputError(f"{path}: cannot tell the format from the ending {ending!r}; expected {', '.join(readers)}")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "there is no such file"
        raise InputError(f"{path}: {what}; expected a {ending[1:]} file")
    try:
        return readers[ending](path, columns)
    except OSError as error:
        raise MachineError(f"{path}: cannot be read: {error.strerror or error}") from error


def _decoded(path: Path) -> str:
    """The whole file as text; a byte order mark is dropped."""
    content = path.read_bytes()
    if not content.strip():
        raise InputError(f"{path}: the file is empty")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        offset = error.start + len(content) - len(error.object)  # the codec counts from behind a byte order mark
        line = content.count(b"\n", 0, offset) + 1
        raise InputError(
            f"{path}, line {line}: not valid UTF-8 at byte {offset} (0x{content[offset]:02x}). Save the file as UTF-8."
        ) from None


def _read_delimited(path: Path, columns: Columns, delimiter: str) -> Rows:
    records = _records(path, io.StringIO(_decoded(path), newline=""), delimiter)
    _, _, header = next(records)
    header = [name.strip() for name in header]
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{path}: two columns are named {name!r}")
    require_columns(str(path), header, columns)
    label = None if columns.label is None else header.index(columns.label)
    swallowed = _Swallowed(path, label, len(header), delimiter)

    def rows() -> Iterator[tuple[str, dict]]:
        for number, (line, raw, fields) in enumerate(records, 1):
            if len(fields) != len(header):
                raise InputError(
                    f"{path}, row {number} (line {line}): expected {len(header)} fields ({', '.join(header)}), got "
                    f"{len(fields)}. A {'comma' if delimiter == ',' else 'tab'} inside a text needs quotes around it."
                )
            swallowed.see(number, line, raw, fields)
            yield f"row {number} (line {line})", dict(zip(header, fields, strict=True))

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


def _read_jsonl(path: Path, columns: Columns) -> Rows:
    def rows() -> Iterator[tuple[str, dict]]:
        number = 0
        for line, text in enumerate(_decoded(path).split("\n"), 1):
            if not text.strip():
                continue
            number += 1
            place = f"row {number} (line {line})"
            try:
                record = parsed(text)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}, {place}: not JSON: {error.msg} at column {error.colno}") from None
            except ValueError as error:
                raise InputError(f"{path}, {place}: JSON that cannot be a row of data: {error}") from None
            if not isinstance(record, dict):
                raise InputError(f"{path}, {place}: expected one JSON object a line, got {type(record).__name__}")
            require_columns(f"{path}, {place}", list(record), columns)
            yield place, record

    return collect(str(path), columns, rows())


def _read_lines(path: Path, columns: Columns) -> Rows:
    require_columns(str(path), [Columns().text], columns)
    lines = enumerate(_decoded(path).splitlines(), 1)
    return collect(
        str(path), columns, ((f"line {number}", {columns.text: line}) for number, line in lines if line.strip())
    )


def _read_parquet(path: Path, columns: Columns) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        require_columns(str(path), file.schema_arrow.names, columns)
        table = file.read(columns=list(columns.named()))
        values = [table.column(name).to_pylist() for name in columns.named()]
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable Parquet file: {error}") from None
    records = (dict(zip(columns.named(), row, strict=True)) for row in zip(*values, strict=True))
    return collect(str(path), columns, ((f"row {number}", record) for number, record in enumerate(records, 1)))
