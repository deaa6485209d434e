"""Shell commands that convert a file to a supported format; messages print them, ready to paste."""

import json
import shlex
from pathlib import Path

_JSON = (
    'import json; table = json.load(open({old}, "rb")); open({new}, "w").writelines(json.dumps(row) + "\\n" '
    "for row in {rows})"
)
_ARROW = (
    "import pyarrow as pa, pyarrow.parquet as pq; "
    "pq.write_table(pa.ipc.{opened}(pa.memory_map({old})).read_all(), {new})"
)
_SPLITS = (
    "from datasets import load_from_disk; "
    '[part.to_parquet(name + ".parquet") for name, part in load_from_disk({old}).items()]'
)
_SAVED = "from datasets import load_from_disk; load_from_disk({old}).to_parquet({new})"
_QUOTED = (
    'import csv; csv.writer(open({new}, "w", newline="", encoding="utf-8"), delimiter="\\t").writerows('
    'line.rstrip("\\r\\n").split("\\t") for line in open({old}, newline="\\n", encoding="utf-8-sig"))'
)
_CP1252 = 'open({new}, "wb").write(open({old}, "rb").read().decode("cp1252").encode("utf-8"))'
_PARQUET = 'import sys, pyarrow.parquet as pq; pq.write_table(pq.read_table(sys.argv[1:]), "joined.parquet")'


def from_json(path: Path, rows: str) -> str:
    """Convert one JSON value to one object per line; `rows` is a Python expression of `table`, the value."""
    return _python(_JSON, path, path.with_suffix(".jsonl"), rows=rows)


def from_arrow(path: Path, opened: str) -> str:
    """Convert an Arrow file or stream, opened by pyarrow's `open_file` or `open_stream`, to Parquet."""
    return _python(_ARROW, path, path.with_suffix(".parquet"), opened=opened)


def from_disk(folder: Path, splits: bool) -> str:
    """Convert a folder of the datasets library's save_to_disk, with one split or several, to Parquet."""
    return _python(_SPLITS if splits else _SAVED, folder, Path(f"{folder.absolute().name}.parquet"))


def with_quotes(path: Path) -> str:
    """Convert unquoted tab-separated lines to quoted ones, as the strict reader requires."""
    return _python(_QUOTED, path, path)


def from_cp1252(path: Path) -> str:
    """Convert a Windows-1252 file to UTF-8."""
    return _python(_CP1252, path, path)


def joined(ending: str, files: str) -> str:
    """Concatenate files into one with a single header line; `files` is shell text."""
    if ending == ".parquet":
        return f"python -c {shlex.quote(_PARQUET)} {files}"
    lines = "1" if ending in (".jsonl", ".ndjson", ".txt") else "'FNR > 1 || NR == 1'"
    return f"awk {lines} {files} > joined{ending}"


def _python(code: str, old: Path, new: Path, **more: str) -> str:
    new = new if new != old else new.with_name(f"{new.stem}-anew{new.suffix}")
    names = {name: json.dumps(str(path), ensure_ascii=False) for name, path in (("old", old), ("new", new))}
    return f"python -c {shlex.quote(code.format(**names, **more))}"
