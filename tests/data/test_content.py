"""Files and folders that are something else: named for what they are, with a command that works as it stands."""

import gzip
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fft.core.errors import InputError
from fft.data.readers import read_file
from fft.data.rows import Columns

ROWS = [{"text": "a, b", "label": "x"}, {"text": 'the "ü"', "label": "y"}]
TABLE = pa.Table.from_pylist(ROWS)
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


def told(path, columns=Columns()):  # noqa: B008 (frozen)
    """What is said about a file that is not read."""
    with pytest.raises(InputError) as caught:
        read_file(Path(path), columns)
    return str(caught.value)


def converted(message, columns=Columns()):  # noqa: B008
    """The rows of the file that the message's command writes."""
    command = message[re.search(r"python -c |awk ", message).start() :]
    before = set(os.listdir())
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(command, shell=True, check=True, env=environment)
    (made,) = set(os.listdir()) - before
    return read_file(Path(made), columns)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("a.csv", "text;label", "separated by ';', not by ',': 'text;label'. Save it with commas, or with tabs as"),
        ("a.csv", '"text";"label"', "separated by ';'"),
        ("a.csv", "\ufeffnumber;text;label", "separated by ';'"),
        ("a.csv", "sentence;stars", "separated by ';'"),
        ("a.csv", "text|label", "separated by '|'"),
        ("a.csv", "text\tlabel", r"separated by '\t', not by ',': 'text\tlabel'. Rename it .tsv."),
        ("a.tsv", "text,label", r"separated by ',', not by '\t': 'text,label'. Rename it .csv."),
        ("a.tsv", "text;label", "separated by ';'"),
        ("a.csv", "sep=;\ntext;label", "separated by ';'"),
        ("a.csv", "sep=,\r\ntext,label", "'sep=,' is an Excel directive, not a header. Remove the line."),
        ("a.csv", "one (a;b;c),label", "no column 'text' for the text"),
        ("a.csv", "[one],label", "no column 'text' for the text"),
    ],
)
def test_columns_that_are_separated_by_something_else(name, line, message):
    Path(name).write_text(f"{line}\na,1\n", encoding="utf-8")
    assert message in told(name)


def test_delimiters_in_names_and_texts_are_fine():
    Path("a.csv").write_text('text,label,"a;b;c;d"\na;b,1,x\n')
    assert read_file(Path("a.csv"), Columns()).texts == ["a;b"]


def test_a_number_with_a_decimal_comma_in_a_csv():
    Path("a.csv").write_text("text,label\na,0,5\n")
    assert "expected 2 fields (text, label), got 3" in told("a.csv") and "with a point, 0.5" in told("a.csv")
    Path("a.csv").write_text("text,label\na,b,5\n")
    assert "with a point" not in told("a.csv")


WHOLE = {
    "an array": ROWS,
    "an object that holds one": {"version": 1, "data": ROWS},
    "columns": COLUMNS,
    "columns of pandas": {name: dict(enumerate(column)) for name, column in COLUMNS.items()},
    "split, of pandas": {"columns": list(COLUMNS), "index": [0, 1], "data": [list(row.values()) for row in ROWS]},
    "index, of pandas": dict(enumerate(ROWS)),
}


@pytest.mark.parametrize("form", WHOLE)
@pytest.mark.parametrize(("name", "indent"), [("it's.json", None), ("a.json", 2), ("a.jsonl", None), ("a.jsonl", 2)])
def test_one_json_value_is_told_how_it_becomes_lines(form, name, indent):
    Path(name).write_text(json.dumps(WHOLE[form], indent=indent))
    if form == "an array" and name.endswith(".json"):
        assert read_file(Path(name), Columns()).texts == ["a, b", 'the "ü"'], "an array of objects is read as it is"
        return
    message = told(name)
    assert message.startswith(f"{name}: JSON is read as one object per line, .jsonl, and this file is one table.")
    if indent:
        assert converted(message)[:3] == (["a, b", 'the "ü"'], None, ["x", "y"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "\n".join(map(json.dumps, ROWS)), "this file holds such lines: rename it .jsonl"),
        ("a.csv", "\n".join(map(json.dumps, ROWS)), "this file holds such lines: rename it .jsonl"),
        ("a.csv", json.dumps(ROWS), "this file is one table"),
        ("a.json", json.dumps({"a": 1}, indent=1), "one value spans several lines. Write each object on one line."),
        (
            "a.json",
            "text",
            "JSON is read as one object per line, .jsonl, and this file holds neither lines nor a table",
        ),
        ("a.jsonl", "\n".join(json.dumps(row, indent=1) for row in ROWS), "one value spans several lines"),
        ("a.jsonl", "[" * 5000, "nested too deep"),
        ("a.json", '[{"text": "a", "label": 1, "label": 0}]', "an object has the key 'label' twice"),
        ("a.jsonl", json.dumps({"txt": "a", "label": 1}), "no column 'text' for the text"),
        ("a.jsonl", "text,label", "row 1 (line 1): not JSON: Expecting value at column 1"),
        ("a.jsonl", '{"text": ["a"], "label": 1}\n{"text": "b", "label": 1}', "expected text, got list"),
    ],
)
def test_json_elsewhere(name, content, message):
    Path(name).write_text(content)
    assert message in told(name)


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
BYTES = {
    "a git-lfs pointer": (POINTER, "git-lfs pointer.*git lfs pull"),
    "a web page": (b"\n<!DOCTYPE html><html></html>", "web page.*download the raw file"),
    "a web page with a mark": (b"\xef\xbb\xbf<html></html>", "web page"),
    "gzip": (gzip.compress(b"text,label\na,1\n"), "compressed with gzip: unpack it with gunzip"),
    "xz": (b"\xfd7zXZ\x00 and more", "compressed with xz"),
    "an old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 and more", "Excel workbook"),
    "half a zip": (b"PK\x03\x04 and no more", "zip archive"),
    "a pickle": (b"\x80\x04\x95 and more", "pickle, which can run code and is never read"),
    "UTF-16": ("text,label\na,1\n".encode("utf-16"), "UTF-16: save it as UTF-8"),
}


@pytest.mark.parametrize("case", BYTES)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "a.txt", "a.gz", "a"])
def test_content_of_another_kind_is_named(case, name):
    content, message = BYTES[case]
    Path(name).write_bytes(content)
    assert re.search(rf"^{re.escape(name)} is .*{message}", told(name, Columns(label=None)))


@pytest.mark.parametrize("name", ["a.csv", "a b.jsonl"])
def test_the_command_for_windows_1252_writes_what_is_read(name):
    text = "text,label\nna\u00efve \u201cquoted\u201d,1\n\u20ac 5,0\n"
    if name.endswith("jsonl"):
        lines = [{"text": text, "label": 1} for text in ("na\u00efve", "\u20ac 5")]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    Path(name).write_bytes(text.encode("cp1252"))
    found = converted(told(name))
    assert found.texts[0].startswith("na\u00efve") and found.texts[1] == "\u20ac 5"


def test_archives_and_tables():
    archive("a.xlsx", "[Content_Types].xml", "xl/workbook.xml")
    archive("a.ods", "mimetype", "content.xml")
    archive("a.zip", "a.csv")
    named = {"a.xlsx": "is an Excel workbook: save", "a.ods": "OpenDocument", "a.zip": "is a zip archive: unpack"}
    assert all(message in told(name) for name, message in named.items())
    pq.write_table(TABLE, "a.csv")
    assert told("a.csv") == "a.csv is a Parquet file: rename it .parquet"
    Path("a.parquet").write_text("text,label\na,1\n")
    assert told("a.parquet").startswith(r"a.parquet is not a Parquet file: it begins with b'text,label\na,1\n'.")
    Path("b.parquet").touch()
    assert told("b.parquet") == "b.parquet: the file is empty: give one with rows"


@pytest.mark.parametrize("opened", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow(opened):
    with pa.OSFile("a.arrow", "wb") as file, opened(file, TABLE.schema) as writer:
        writer.write_table(TABLE)
    assert converted(told("a.arrow"))[:3] == (["a, b", 'the "ü"'], None, ["x", "y"])


def test_lines_of_tabs_without_quoting():
    texts = ['"the" film', 'a "b" c', '"open', "x"]
    Path("a.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{at % 2}\n" for at, text in enumerate(texts)))
    message = told("a.tsv")
    assert (
        "the row that starts at line 2: stray quote" in message and "If the file has no quoting, convert it" in message
    )
    assert converted(message)[:3] == (texts, None, ["0", "1", "0", "1"])
    Path("a.csv").write_text('text,label\n"the" film,1\n')
    assert "no quoting" not in told("a.csv")


def saved(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def test_what_save_to_disk_wrote():
    saved(Path("one"), "state.json", "dataset_info.json", "data-00000-of-00001.arrow")
    saved(Path("some"), "dataset_dict.json", "train/state.json", "train/dataset_info.json")
    line = "from datasets import load_from_disk; "
    assert f'{line}load_from_disk("one").to_parquet("one.parquet")' in told("one")
    assert 'part.to_parquet(name + ".parquet") for name, part in load_from_disk("some").items()' in told("some")
    assert f'{line}load_from_disk("some/train").to_parquet("train.parquet")' in told("some/train")


PARTS = {
    "parts.csv": lambda path, row: path.write_text(f'text,label\n"{row["text"]}",{row["label"]}'),
    "parts.jsonl": lambda path, row: path.write_text(json.dumps(row)),
    "parts.parquet": lambda path, row: pq.write_table(pa.Table.from_pylist([row]), path),
}


@pytest.mark.parametrize("folder", PARTS)
@pytest.mark.parametrize("pattern", ["", "/*{0}", "/part-?{0}"])
def test_parts_are_not_joined_and_the_message_says_how(folder, pattern):
    path, ending, row = Path(folder), Path(folder).suffix, {"text": "a, b", "label": "x"}
    path.mkdir()
    (path / "_SUCCESS").touch()
    for number in range(3):
        PARTS[folder](path / f"part-{number}{ending}", row | {"label": f"x{number}"})
    message = told(folder + pattern.format(ending))
    wanted = "no such file, and patterns are not expanded" if pattern else "is a folder, and parts are not joined"
    assert wanted in message and converted(message).labels == ["x0", "x1", "x2"]


def test_other_folders():
    saved(Path("prepared"), "dataset_info.json", "features.json")
    assert told("prepared") == "prepared is a folder prepared by tfds: name it as tfds:prepared"
    Path("data").mkdir()
    assert told("data").startswith("data is a folder without data: give a file, .csv, .tsv")
    assert told("data").endswith(", or a folder of texts, .txt, .md, .py")
    saved(Path("data"), "a.csv", "b.md")
    assert told("data") == "data is a folder: name the file in it, data/a.csv"
    saved(Path("data"), "below/c.csv")
    assert "Name one of its 2 .csv files (data/a.csv, data/below/c.csv)" in told("data")
    assert "' data/*.csv data/*/*.csv > joined.csv" in told("data")
    assert told("none*.csv") == "none*.csv: there is no such file, and patterns are not expanded; expected a csv file"
    os.mkfifo("a.csv")
    assert told("a.csv").startswith("a.csv is a pipe or a device")
    Path("b*.csv").write_text("text,label\na,1\n")
    assert read_file(Path("b*.csv"), Columns()).texts == ["a"]
