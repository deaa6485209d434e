"""Sources and splits: the same text on the same side always, and nothing that is trained on is scored."""

import shutil
import sys
from types import SimpleNamespace

import pytest

from fft.core.errors import InputError, MachineError
from fft.data.rows import Columns, Rows
from fft.data.sources import open_source, read_source
from fft.data.splits import drop_shared, make_splits, positions
from tests.helpers.tiny_tasks import write_csv

C = Columns()


def rows_of(texts, labels=None):
    return Rows(list(texts), None, labels or [0] * len(texts), list(range(1, len(texts) + 1)), "source")


def numbered(count, start=0):
    return [f"text {n},{n % 2}" for n in range(start, start + count)]


def test_one_split_is_cut_80_10_10(tmp_path):
    found = make_splits(write_csv(tmp_path / "a.csv", numbered(2000)), C)
    sizes = {role: len(rows.texts) for role, rows in found.rows.items()}
    assert sum(sizes.values()) == 2000
    assert 1550 < sizes["train"] < 1650 and 160 < sizes["validation"] < 240 and 160 < sizes["test"] < 240
    assert found.carved == ("validation", "test") and found.warnings == []
    assert sorted(n for rows in found.rows.values() for n in rows.numbers) == list(range(1, 2001))


def test_a_text_keeps_its_side_when_rows_are_added(tmp_path):
    few = make_splits(write_csv(tmp_path / "a.csv", numbered(300)), C)
    many = make_splits(write_csv(tmp_path / "b.csv", [*numbered(500, 300), *numbered(300)]), C)
    for role in ("train", "validation", "test"):
        assert set(few.rows[role].texts) <= set(many.rows[role].texts)


def test_the_seed_and_the_pair_move_the_cut():
    texts = [f"t{n}" for n in range(50)]
    assert positions(rows_of(texts)) == positions(rows_of(texts)) != positions(rows_of(texts), seed=1)
    paired = rows_of(texts)._replace(pairs=["p"] * 50)
    assert positions(paired) != positions(rows_of(texts))
    moved = rows_of(["ab"])._replace(pairs=["c"]), rows_of(["a"])._replace(pairs=["bc"])
    assert positions(moved[0]) != positions(moved[1])


def test_repeated_texts_stay_together(tmp_path):
    found = make_splits(write_csv(tmp_path / "a.csv", numbered(40) * 3), C)
    texts = [set(rows.texts) for rows in found.rows.values()]
    assert sum(map(len, texts)) == 40 == len(set.union(*texts))


@pytest.mark.parametrize("count", [3, 4, 7])
def test_a_small_file_has_every_split(tmp_path, count):
    for start in range(0, 200, count):
        found = make_splits(write_csv(tmp_path / "a.csv", numbered(count, start)), C)
        assert all(rows.texts for rows in found.rows.values())
        assert sum(len(rows.texts) for rows in found.rows.values()) == count


def test_too_few_texts(tmp_path):
    with pytest.raises(InputError, match="2 different texts are too few to split off validation and test"):
        make_splits(write_csv(tmp_path / "a.csv", numbered(2) * 5), C)


def test_named_sources_override_and_overlap_is_dropped(tmp_path):
    main = write_csv(tmp_path / "a.csv", numbered(100))
    test = write_csv(tmp_path / "t.csv", [*numbered(5), "other,1"])
    found = make_splits(main, C, test=test)
    assert found.rows["test"].texts == [*(f"text {n}" for n in range(5)), "other"]
    assert found.carved == ("validation",)
    kept = set(found.rows["train"].texts) | set(found.rows["validation"].texts)
    assert kept == {f"text {n}" for n in range(5, 100)}
    assert 3 <= len(found.rows["validation"].texts) <= 20
    assert found.warnings == ["5 training rows are also in validation or test; they are not trained on"]
    both = make_splits(main, C, validation=test, test=test)
    assert both.carved == () and "6 texts are in both validation and test" in both.warnings
    with pytest.raises(InputError, match="every training row is also"):
        make_splits(main, C, test=main)


def test_drop_shared_compares_pairs_too():
    train = Rows(["a", "a", "b"], ["1", "2", "1"], [0, 1, 0], [1, 2, 3], "s")
    kept, dropped = drop_shared(train, [Rows(["a"], ["2"], [0], [9], "s")])
    assert (kept.texts, kept.pairs, kept.labels, kept.numbers, dropped) == (["a", "b"], ["1", "1"], [0, 0], [1, 3], 1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("demo:books", "no demo data 'books': choose from movie, amazon"),
        ("http://example.org/a.csv", "unknown kind of source 'http'"),
        ("file:", "has no path"),
        ("tfds:huggingface:glue/sst2", "use hf:glue/sst2"),
        ("tfds:no_such_data_set", "tfds has no data set"),
    ],
)
def test_no_such_source(source, message):
    with pytest.raises(InputError, match=message):
        open_source(source)


# ---- tfds folders


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A tfds folder with splits train (12 rows), dev (3), test (2, unlabelled)."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {"sentence": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["no", "yes"])}
    )
    examples = {"train": [("ü %d", 1)] * 12, "dev": [("d %d", 0)] * 3, "test": [("t %d", -1)] * 2}
    root = tmp_path_factory.mktemp("tfds")

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = None

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {name: self._generate_examples(rows) for name, rows in examples.items()}

        def _generate_examples(self, rows):
            for at, (text, label) in enumerate(rows):
                yield at, {"sentence": text % at, "label": label}

    tfds.disable_progress_bar()
    builder = Tiny(data_dir=root, file_format="array_record")
    builder.download_and_prepare()
    return builder.data_dir


def test_tfds_folder(prepared):
    columns = Columns(text="sentence")
    opened = open_source(f"tfds:{prepared}")
    assert set(opened.splits) == {"train", "dev", "test"} and opened.spelled("validation") == "dev"
    rows = opened.read("train", columns)
    assert sorted(rows.texts) == sorted(f"ü {n}" for n in range(12))
    assert set(rows.labels) == {"yes"} and rows.numbers == list(range(1, 13))
    assert list(read_source(f"tfds:{prepared}/dev", columns)) == ["dev"]
    with pytest.raises(InputError, match=r"row 1: label -1 is not one of the 2 classes.*unlabelled"):
        make_splits(f"tfds:{prepared}", columns)
    found = make_splits(f"tfds:{prepared}", columns, test=f"tfds:{prepared}/dev")
    assert {role: len(rows.texts) for role, rows in found.rows.items()} == {"train": 12, "validation": 3, "test": 3}
    assert found.carved == ()
    with pytest.raises(InputError, match="no split 'validation': choose from "):
        open_source(f"tfds:{prepared}/validation")
    with pytest.raises(InputError, match=r"no column 'text'.*'label', 'sentence'"):
        opened.read("train", C)


def test_tfds_folder_that_is_none(prepared, tmp_path):
    with pytest.raises(InputError, match=r"there is no dataset_info\.json"):
        open_source(f"tfds:{tmp_path}")
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "state.json").write_text("{}")
    for kind in ("file", "tfds"):
        with pytest.raises(InputError, match=r"of datasets' save_to_disk.*load_from_disk.*\.to_parquet"):
            read_source(f"{kind}:{tmp_path}", C)


def broken(at, name, content):
    (next(at.glob(name))).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda at: broken(at, "dataset_info.json", b"{"), InputError, "cannot be read: "),
        (lambda at: broken(at, "dataset_info.json", b'{"features": 3}'), InputError, "cannot be read: ParseError: "),
        (lambda at: broken(at, "features.json", b"[]"), InputError, "cannot be read: "),
        (lambda at: broken(at, "*-train.array_record*", b"\0" * 70_000), InputError, "cannot be read: "),
        (lambda at: next(at.glob("*-train.array_record*")).unlink(), InputError, "cannot be read: "),
    ],
)
def test_what_the_reader_of_tfds_raises_becomes_one_message(prepared, tmp_path, change, kind, message):
    folder = shutil.copytree(prepared, tmp_path / "tiny" / "1.0.0")
    change(folder)
    with pytest.raises(kind, match=message) as caught:
        read_source(f"tfds:{folder}/train", Columns("sentence"))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


# ---- the hub, with a stand-in for the package


def hub(monkeypatch, load):
    class DatasetNotFoundError(FileNotFoundError):
        pass

    exceptions = SimpleNamespace(DatasetNotFoundError=DatasetNotFoundError)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load, exceptions=exceptions))
    return DatasetNotFoundError


class Table(list):
    column_names = ("text", "label")
    features = {"label": SimpleNamespace(names=["no", "yes"])}  # noqa: RUF012


def test_hub(monkeypatch):
    asked = []

    def load(name, config):
        asked.append((name, config))
        return {"train": Table([{"text": "a", "label": 1}]), "test": Table([{"text": "b", "label": -1}])}

    hub(monkeypatch, load)
    rows = read_source("hf:owner/name:config/train", C)
    assert asked == [("owner/name", "config")] and rows["train"].labels == ["yes"]
    with pytest.raises(InputError, match="label -1 is not one of the 2 classes"):
        read_source("hf:owner/name", C)
    with pytest.raises(InputError, match="no split 'dev': choose from train, test"):
        open_source("hf:owner/name/dev")


def test_hub_troubles(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'fft-jax\[hub\]'"):
        open_source("hf:owner/name")

    def offline(name, config):
        raise ConnectionError("no route")

    hub(monkeypatch, offline)
    with pytest.raises(MachineError, match="the hub cannot be reached: no route"):
        open_source("hf:owner/name")
    missing = hub(monkeypatch, lambda name, config: (_ for _ in ()).throw(missing("no such data")))
    with pytest.raises(InputError, match="no such data"):
        open_source("hf:owner/name")
    hub(monkeypatch, lambda name, config: 1 / 0)
    with pytest.raises(InputError, match="hf:owner/name: cannot be read: ZeroDivisionError: division by zero"):
        open_source("hf:owner/name")

    class Torn(Table):
        def __iter__(self):
            yield {"text": "a", "label": 1}
            b"\xff".decode()

    hub(monkeypatch, lambda name, config: {"train": Torn()})
    with pytest.raises(InputError, match="hf:owner/name/train: cannot be read: UnicodeDecodeError"):
        read_source("hf:owner/name", C)
    hub(monkeypatch, lambda name, config: {"train": Table([{"text": "a \udfff", "label": 1}])})
    with pytest.raises(InputError, match=r"hf:owner/name/train, row 1, column 'text': half a character \(U\+DFFF\)"):
        read_source("hf:owner/name", C)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="the local folder 'owner/name' would be read"):
        open_source("hf:owner/name")
