"""Strict readers of local files: CSV, TSV, JSONL, Parquet. Ambiguous content is rejected, with its position.

A lenient reader would silently turn a stray quote into lost rows, and a column of mixed types into wrong labels.
"""

import csv
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from fft.core.errors import InputError, MachineError
from fft.data.content import check_content, decoded
from fft.data.delimited import read_delimited
from fft.data.documents import ENDINGS as TEXTS
from fft.data.documents import document_files, read_documents
from fft.data.folders import no_file
from fft.data.jsonlines import first_columns, read_json, read_jsonl
from fft.data.rows import Columns, Rows, collect, collect_named, require_columns
from fft.disk.files import parsed

if TYPE_CHECKING:
    import pyarrow

FIRST_LINES = 1000
"""lines of a file in which the first row is sought"""


def read_file(path: Path, columns: Columns) -> Rows:
    """Read the rows of one file; its ending decides the format: .csv, .tsv, .jsonl or .ndjson, .json (an array of
    objects), .parquet, .txt.

    CSV and TSV have a header line; a field quoted with " may hold delimiters and line breaks. A .txt file has one text
    per line, in a column called text, and no labels.

    With `columns.documents`, files of plain text are documents (fft.data.documents), and PATH may be a folder of them,
    or a pattern.

    Raises: InputError naming file, row and column, or what the path is instead of such a file; MachineError if the
    file cannot be read.
    """
    if columns.documents and (files := document_files(path)):
        require_columns(str(path), [Columns().text], columns)
        return read_documents(str(path), files)
    readers = {
        ".csv": lambda path, columns: read_delimited(path, columns, ","),
        ".tsv": lambda path, columns: read_delimited(path, columns, "\t"),
        ".jsonl": read_jsonl,
        ".ndjson": read_jsonl,
        ".json": read_json,
        ".parquet": _read_parquet,
        ".txt": _read_lines,
    }
    ending = path.suffix.lower()
    try:
        if not path.is_file():
            raise InputError(no_file(path, tuple(readers)))
        check_content(path, ending)
        if ending not in readers:
            expected = ", ".join(readers)
            raise InputError(f"{path}: unknown ending {ending!r}: rename it, or convert it to one of {expected}")
        return readers[ending](path, columns)
    except OSError as error:
        raise MachineError(f"{path}: cannot be read: {error.strerror or error}") from error


def columns_in(path: Path) -> tuple[str, ...]:
    """Return the names of the columns of a file; of JSON lines those of the first row, of plain text `text`.

    A file that cannot be read has none: reading its rows says why.
    """
    if path.is_dir() or not path.exists():
        return (Columns().text,) if document_files(path) else ()
    try:
        return _COLUMNS.get(path.suffix.lower(), lambda path: ())(path)
    except (OSError, ValueError, InputError):
        return ()


def _of_parquet(path: Path) -> tuple[str, ...]:
    import pyarrow
    import pyarrow.parquet

    try:
        return tuple(pyarrow.parquet.read_schema(path).names)
    except pyarrow.ArrowException as error:
        raise InputError(f"{path}: not a readable Parquet file: {error}") from None


def _of_jsonl(path: Path) -> tuple[str, ...]:
    with path.open(encoding="utf-8-sig") as lines:
        first = next(line for line in (*islice(lines, FIRST_LINES), "{}") if line.strip())
    value = parsed(first)
    return tuple(value) if isinstance(value, dict) else ()


def _of_header(path: Path, delimiter: str) -> tuple[str, ...]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        return tuple(next(csv.reader(lines, delimiter=delimiter), ()))


_COLUMNS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    ".csv": lambda path: _of_header(path, ","),
    ".tsv": lambda path: _of_header(path, "\t"),
    ".jsonl": _of_jsonl,
    ".ndjson": _of_jsonl,
    ".json": first_columns,
    ".parquet": _of_parquet,
    **dict.fromkeys(TEXTS, lambda path: (Columns().text,)),
}


def _read_lines(path: Path, columns: Columns) -> Rows:
    require_columns(str(path), [Columns().text], columns)
    lines = enumerate(decoded(path).splitlines(), 1)
    return collect(
        str(path), columns, ((f"line {number}", {columns.text: line}) for number, line in lines if line.strip())
    )


def _read_parquet(path: Path, columns: Columns) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        require_columns(str(path), file.schema_arrow.names, columns)
        names = _class_names(file.schema_arrow, columns.label)
        read = columns.named(file.schema_arrow.names)
        table = file.read(columns=list(read))
        values = [_values(table.column(name)) for name in read]
    except pyarrow.ArrowException as error:
        raise InputError(f"{path}: not a readable Parquet file: {error}") from None
    records = (dict(zip(read, row, strict=True)) for row in zip(*values, strict=True))
    return collect_named(str(path), columns, records, names)


def _class_names(schema: "pyarrow.Schema", label: str | None) -> list[str] | None:
    """Return the class names that the datasets library stored for a column of class numbers; None if there are none.

    They are in the JSON text `huggingface` of the metadata, which other programs may have left stale.
    """
    from pyarrow import types

    try:
        feature = parsed(schema.metadata[b"huggingface"])["info"]["features"][label]
        kind, names = feature["_type"], feature["names"]
    except (KeyError, TypeError, ValueError):
        return None
    column = schema.field(label).type
    column = column.value_type if types.is_dictionary(column) else column
    readable = any(of(column) for of in (types.is_integer, types.is_floating, types.is_string, types.is_large_string))
    named = isinstance(names, list) and all(isinstance(name, str) and name.strip() for name in names)
    return names if kind == "ClassLabel" and readable and named else None


def _values(column: "pyarrow.ChunkedArray") -> list:
    """Return the values of a Parquet column; as bytes if some are not UTF-8, so that a message can name the row."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return column.cast("large_binary").to_pylist()
