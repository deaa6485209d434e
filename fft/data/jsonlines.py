"""Strict readers of JSON lines and of a JSON array of objects, and messages for other JSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fft.core.errors import InputError
from fft.data.content import decoded
from fft.data.convert import from_json
from fft.data.rows import Columns, Rows, collect, require_columns
from fft.disk.files import parsed

_EXPECTED = "JSON is read as one object per line, .jsonl"


def read_jsonl(path: Path, columns: Columns) -> Rows:
    """Read a file with one JSON object per line. Raises: InputError naming file, row and column."""
    text = decoded(path)

    def rows() -> Iterator[tuple[str, dict]]:
        number = 0
        for line, content in enumerate(text.split("\n"), 1):
            if not content.strip():
                continue
            number += 1
            place = f"row {number} (line {line})"
            if number == 1 and (problem := one_value(path, text, columns)):
                raise InputError(problem)
            values = record(f"{path}, {place}", content)
            require_columns(f"{path}, {place}", list(values), columns)
            yield place, values

    return collect(str(path), columns, rows())


def read_json(path: Path, columns: Columns) -> Rows:
    """Read a file that is one array of objects.

    Raises: InputError naming file, row and column, or what other JSON the file holds and how it becomes JSON lines.
    """
    text = decoded(path)
    value = _value(text)
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        try:
            parsed(text, unique=True)
        except ValueError as error:
            raise InputError(f"{path}: JSON that cannot be rows of data: {error}") from None

        def rows() -> Iterator[tuple[str, dict]]:
            for number, values in enumerate(value, 1):
                require_columns(f"{path}, row {number}", list(values), columns)
                yield f"row {number}", values

        return collect(str(path), columns, rows())
    raise InputError(
        other_json(path, text, columns) or f"{path}: {_EXPECTED}, and this file holds neither lines nor a table"
    )


def first_columns(path: Path) -> tuple[str, ...]:
    """Return the names in the first object of a JSON array; () for other files."""
    value = _value(decoded(path))
    return tuple(value[0]) if isinstance(value, list) and value and isinstance(value[0], dict) else ()


def other_json(path: Path, text: str, columns: Columns) -> str | None:
    """Describe the problem with JSON in a file of another ending; None if it holds no JSON."""
    if problem := one_value(path, text, columns):
        return problem
    first = _value(text.lstrip().partition("\n")[0])
    return f"{path}: {_EXPECTED}, and this file holds such lines: rename it .jsonl" if isinstance(first, dict) else None


def one_value(path: Path, text: str, columns: Columns) -> str | None:
    """Describe the problem with a table that is one JSON value, over one or more lines; None for other texts."""
    first = text.lstrip().partition("\n")[0].strip()
    if _is_row(_value(first), columns):
        return None
    rows = _rows_in(_value(text), columns)
    if rows is not None:
        return f"{path}: {_EXPECTED}, and this file is one table. Convert it: {from_json(path, rows)}"
    if first in ("{", "["):
        return f"{path}: {_EXPECTED}, and here one value spans several lines. Write each object on one line."
    return None


def _is_row(value: Any, columns: Columns) -> bool:
    """Whether a JSON value has all the columns to read, with one scalar each."""
    named = isinstance(value, dict) and set(columns.named()) <= set(value)
    return named and (bool(columns.chat) or not any(isinstance(value[name], list | dict) for name in columns.named()))


def record(where: str, line: str) -> dict:
    """Return the JSON object in a line. Raises: InputError that begins with `where`."""
    try:
        value = parsed(line, unique=True)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:
        raise InputError(f"{where}: JSON that cannot be a row of data: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected one JSON object per line, got {type(value).__name__}")
    return value


def _value(text: str) -> Any:
    """Return the value of a JSON text; None for other texts."""
    try:
        return parsed(text)
    except ValueError:
        return None


def _rows_in(value: Any, columns: Columns) -> str | None:
    """Return a Python expression for the rows of a JSON `table`; None if the value is no table.

    Supported: an array, an object that holds one, and the formats of pandas (columns of values, or rows by number).
    """
    if isinstance(value, list):
        return "table"
    if not isinstance(value, dict) or not value:
        return None
    if {"columns", "data"} <= value.keys():
        return '(dict(zip(table["columns"], row)) for row in table["data"])'
    arrays = [name for name, rows in value.items() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    if arrays:
        return f"table[{json.dumps(arrays[0], ensure_ascii=False)}]"
    if all(isinstance(column, list) for column in value.values()):
        return "(dict(zip(table, row)) for row in zip(*table.values()))"
    if not all(isinstance(column, dict) for column in value.values()):
        return None
    in_columns = "(dict(zip(table, row)) for row in zip(*map(dict.values, table.values())))"
    return in_columns if columns.text in value else "table.values()"
