"""Files are read whole and right, or refused with file, row and column."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fft.core.errors import InputError
from fft.data.readers import read_file
from fft.data.rows import Columns, collect


def read(tmp_path, name, content, columns=Columns()):  # noqa: B008 (frozen)
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_file(path, columns)


def test_csv_quotes_newlines_and_byte_order_mark(tmp_path):
    content = b'\xef\xbb\xbftext,label,more\r\n"a, ""b""\r\nc",1,x\r\n\r\n  d ,0,\r\n'
    rows = read(tmp_path, "a.csv", content)
    assert rows.texts == ['a, "b"\r\nc', "  d "]
    assert (rows.labels, rows.numbers, rows.pairs) == (["1", "0"], [1, 2], None)


def test_tsv_pairs_and_named_columns(tmp_path):
    content = 'one\ttwo\tkind\na, b\tsay "c"\tyes\n'
    rows = read(tmp_path, "a.tsv", content, Columns("one", "two", "kind"))
    assert (rows.texts, rows.pairs, rows.labels) == (["a, b"], ['say "c"'], ["yes"])


def test_texts_without_labels(tmp_path):
    bare = Columns(label=None)
    lines = read(tmp_path, "a.txt", 'one, "two"\n\n  three\r\n', bare)
    assert (lines.texts, lines.labels, lines.numbers) == (['one, "two"', "  three"], [0, 0], [1, 2])
    assert read(tmp_path, "a.csv", 'text\n"a\nb"\nc\n', bare).texts == ["a\nb", "c"]
    assert read(tmp_path, "a.jsonl", '{"text": "a"}', bare).texts == ["a"]
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet", bare).texts == ["a"]
    with pytest.raises(InputError, match="no column 'label' for the label"):
        read(tmp_path, "a.txt", "one")


@pytest.mark.parametrize("header", ["text,label,,", "text,label,note,note", " text ,label, ,"])
def test_columns_that_nobody_reads_may_have_any_name(tmp_path, header):
    rows = read(tmp_path, "a.csv", f"{header}\na,1,,\nb,0,x,\n")
    assert (rows.texts, rows.labels) == (["a", "b"], ["1", "0"])
    table = pa.table([["a", "b"], [1, 0], ["x", "y"], ["x", "y"]], names=["text", "label", "note", "note"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet", Columns()).labels == [1, 0]
    pq.write_table(table.rename_columns(["text", "label", "label", "note"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="two columns are named 'label', the column of the label"):
        read_file(tmp_path / "a.parquet", Columns())


def test_rows_without_any_value_are_refused_together(tmp_path):
    filled = "".join(f"a {n},1,\n" for n in range(40))
    with pytest.raises(InputError, match=r"row 41 \(line 42\): rows 41 to 60 are empty\. Remove them\."):
        read(tmp_path, "a.csv", f"text,label,more\n{filled}" + ",,\n" * 20)
    with pytest.raises(InputError, match=r"row 41 \(line 42\): the row is empty"):
        read(tmp_path, "a.csv", f"text,label,more\n{filled} , \nb,0,\n,,\n")
    with pytest.raises(InputError, match=r"row 41 \(line 42\), column 'text': the text is empty"):
        read(tmp_path, "a.csv", f"text,label,more\n{filled},,note\n")
    nothing = [{"text": None, "label": None}] * 2
    with pytest.raises(InputError, match=r"row 2 \(line 2\): rows 2 to 3 are empty"):
        read(tmp_path, "a.jsonl", "\n".join(map(json.dumps, [{"text": "a", "label": 1}, *nothing])))
    pq.write_table(pa.Table.from_pylist([{"text": "a", "label": 1}, *nothing]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="row 2: rows 2 to 3 are empty"):
        read_file(tmp_path / "a.parquet", Columns())


def test_long_field(tmp_path):
    assert len(read(tmp_path, "a.csv", "text,label\n" + "x" * 200_000 + ",1\n").texts[0]) == 200_000


def test_jsonl_and_parquet_agree(tmp_path):
    records = [{"text": "a\u2028b", "label": 2}, {"text": "é", "label": 0}]
    lines = read(tmp_path, "a.jsonl", "\n\n".join(json.dumps(r, ensure_ascii=False) for r in records))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    table = read_file(tmp_path / "a.parquet", Columns())
    assert lines[:4] == table[:4] == (["a\u2028b", "é"], None, [2, 0], [1, 2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "file is empty"),
        (" \n", "file is empty"),
        ("text,label\n", "no rows of data"),
        ("text,label\na,1\nb\n", r"row 2 \(line 3\): expected 2 fields \(text, label\), got 1"),
        ("text,label\na,b,1\n", r"row 1 \(line 2\): expected 2 fields .* got 3"),
        ('text,label\n"good,1\nbad,0\nfine,1\n', "starts at line 2: a quote is never closed"),
        ('text,label\nx,1\n"good"y,1\n', "starts at line 3: stray quote"),
        ('text,label\nthe "best" one,1\n', "line 2: stray quote in an unquoted field"),
        ('text,label\na,1\nb,0\n"oh no,0\nmore,1\nhe said",1\n', r"row 3 \(line 4\): a pair of stray quotes joins 3"),
        ("txt,label\na,1\n", "no column 'text' for the text.*'txt', 'label'.*Did you mean 'txt'"),
        ("text,label,label\na,1,2\n", "two columns are named 'label'"),
        (b"text,label\nok,1\nab\xff,1\n", r"line 3: not valid UTF-8 at byte 18 \(0xff\)"),
        (b"\xef\xbb\xbftext,label\nab\xff,1\n", r"line 2: not valid UTF-8 at byte 16 \(0xff\)"),
        (b"text,label\na\xff,1\nb,1\n\xe9\xff,1\n", r"\(0xff\); 2 lines are not. All of it fits cp1252"),
        (b"text,label\na\xff,1\nb\x81,1\n", r"\(0xff\); 2 lines are not. Save the file as UTF-8.$"),
        ("text,label\n\u00e9,1\n".encode() + b"\xe9,1\n", "it is the only such line. Save the file as UTF-8.$"),
        ("text,label\n ,1\n", r"row 1 \(line 2\), column 'text': the text is empty"),
        ("text,label\na,\n", r"row 1 \(line 2\), column 'label': the label is missing"),
    ],
)
def test_bad_csv(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, "a.csv", content)
    assert str(tmp_path / "a.csv") in str(caught.value)


def test_a_quoted_newline_that_looks_like_fields_is_legal(tmp_path):
    rows = read(tmp_path, "a.csv", 'text,label\nx,1\ny,0\n"Dear John,\nthank you",1\n')
    assert rows.texts[2] == "Dear John,\nthank you"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"text": "a", "label": 0}', '{"text": "b", "label": "x"}'], "more than one type: row 1 .*0.*row 2 .*'x'"),
        (['{"text": "a", "label": 0}', '{"text": "b", "label": true}'], "more than one type"),
        (['{"text": "a", "label": null}'], r"row 1 \(line 1\), column 'label': the label is missing"),
        (['{"text": "a", "label": "x"}', '{"text": "b", "label": NaN}'], r"row 2 .*the label is missing \(NaN\)"),
        (['{"text": null, "label": 1}'], r"column 'text': the text is missing \(null\)"),
        (['{"text": NaN, "label": 1}'], r"column 'text': the text is missing \(NaN\)"),
        (['{"text": NaN, "label": NaN}'], "row 1 .*the row is empty"),
        (['{"text": 3, "label": 1}'], "expected text, got int 3"),
        (['{"text": "a", "label": [1]}'], "expected a label"),
        (['{"text": "a", "label": 1}', '{"text": "b", "lable": 1}'], "row 2 .*no column 'label'.*mean 'lable'"),
        (['{"text": "a", "label": 1}', "[1]"], r"row 2 \(line 2\): expected one JSON object per line, got list"),
        (['{"text": "a" "label": 1}'], r"row 1 \(line 1\): not JSON: .* at column 14"),
        (['{"text": "a", "label": 1, "text": "b"}'], r"row 1 \(line 1\): JSON .*an object has the key 'text' twice"),
    ],
)
def test_bad_jsonl(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, "a.jsonl", "\n".join(lines))


def test_a_missing_value_is_no_other_type_of_label(tmp_path):
    lines = ['{"text": "a", "label": 0}', '{"text": "b", "label": " NA"}']
    assert read(tmp_path, "a.jsonl", "\n".join(lines)).labels == [0, "NA"]


HALF = "half a character \\(U\\+D83D\\): remove it, or save the text again"


@pytest.mark.parametrize("column", ["text", "pair", "label"])
def test_half_a_character(tmp_path, column):
    whole = {"text": "a", "pair": "b", "label": "c", "note": "\ud83d"}
    lines = "\n".join(map(json.dumps, [whole, whole | {column: "x \ud83d"}]))
    assert read(tmp_path, "a.jsonl", json.dumps(whole), Columns(pair="pair")).pairs == ["b"]
    with pytest.raises(InputError, match=rf"a\.jsonl, row 2 \(line 2\), column '{column}': {HALF}"):
        read(tmp_path, "a.jsonl", lines, Columns(pair="pair"))
    with pytest.raises(InputError, match=rf"s, row 1, column '{column}': {HALF}"):  # as tfds hands it over
        collect("s", Columns(pair="pair"), [("row 1", whole | {column: b"x \xed\xa0\xbd"})])


def no_utf8(values):
    """A column of strings whose bytes nobody has checked."""
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(ends.tobytes()), pa.py_buffer(b"".join(values)))


@pytest.mark.parametrize(("end", "message"), [(b"\xed\xa0\xbd", HALF), (b"\xff", "not valid UTF-8 at byte 1 of")])
def test_parquet_that_is_no_text(tmp_path, end, message):
    broken, path = no_utf8([b"a", b"b" + end]), tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0, 1], "note": broken}), path)
    assert read_file(path, Columns()).texts == ["a", "b"]
    for column in ("text", "label"):
        pq.write_table(pa.table({"text": ["a", "b"], "label": ["x", "y"]} | {column: broken}), path)
        with pytest.raises(InputError, match=f"row 2, column '{column}': {message}"):
            read_file(path, Columns())


def class_label(names, kind="ClassLabel"):
    return {"huggingface": json.dumps({"info": {"features": {"label": {"names": names, "_type": kind}}}})}


def parquet(path, labels, metadata):
    table = pa.table({"text": [f"t{at}" for at in range(len(labels))], "label": labels})
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return read_file(path, Columns()).labels


def test_class_names_in_the_metadata_of_parquet(tmp_path):
    path, told = tmp_path / "a.parquet", class_label(["yes", "no"])
    assert parquet(path, [0, 1, 1], told) == parquet(path, [0.0, 1.0, 1.0], told) == ["yes", "no", "no"]
    assert parquet(path, ["0", "1"], told) == ["yes", "no"], "numbers in text"
    assert parquet(path, ["no", "yes", "maybe"], told) == ["no", "yes", "maybe"]
    assert read_file(path, Columns(label=None)).labels == [0, 0, 0]
    for label in (-1, 2, 0.5):
        with pytest.raises(InputError, match=rf"row 2: label {label} is not one of the 2 classes, 0 to 1\..*"):
            parquet(path, [0, label], told)
    for nothing in (None, float("nan")):
        with pytest.raises(InputError, match="row 2, column 'label': the label is missing"):
            parquet(path, [0.0, nothing], told)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"other": "x"},
        {"huggingface": "{"},
        {"huggingface": b"\xff"},
        {"huggingface": "[" * 100_000},
        {"huggingface": "[]"},
        {"huggingface": '{"info": {"features": {"text": {"names": ["a", "b"], "_type": "ClassLabel"}}}}'},
        {"huggingface": '{"info": {"features": {"label": "ClassLabel"}}}'},
        class_label(["a", "b"], "Value"),
        class_label(None),
        class_label("ab"),
        class_label(["a", 1]),
        class_label(["a", " "]),
    ],
)
def test_metadata_of_parquet_that_tells_no_classes(tmp_path, metadata):
    assert parquet(tmp_path / "a.parquet", [0, 1], metadata) == [0, 1]


def test_bad_parquet(tmp_path):
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read(tmp_path, "a.parquet", b"PAR1 and no more")
    pq.write_table(pa.table({"text": ["a", "b"], "label": [1, None]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="row 2, column 'label': the label is missing"):
        read_file(tmp_path / "b.parquet", Columns())
    pq.write_table(pa.table({"text": ["a", "b"], "label": [1, float("nan")]}), tmp_path / "c.parquet")
    with pytest.raises(InputError, match=r"row 2, column 'label': the label is missing \(NaN\)"):
        read_file(tmp_path / "c.parquet", Columns())
    with pytest.raises(InputError, match="no column 'pair' for the pair"):
        read_file(tmp_path / "b.parquet", Columns(pair="pair"))


@pytest.mark.parametrize(("name", "message"), [("a.xlsx", "expected .csv"), ("none.csv", "there is no such file")])
def test_no_such_format_or_file(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        read_file(tmp_path / name, Columns())


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_file(tmp_path / "a.csv", Columns())
