"""The demo's data: the rated sentences, read and split; and what the demo fetches."""

import io
import sys
import tarfile

import pytest

from fft.core.errors import InputError
from fft.data import demo
from tests.helpers.archives import add


def sdist(path, table):
    """An sdist like the real one with one table."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        add(archive, "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt", table.encode())
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
    return path


def test_rated_rows(tmp_path):
    from fft.data.sentiment import Rated, rated_rows

    table = "1_1\t0.51\tgood\r\n1_2\t0.5\tso so\r\n2_1\t-0.6\t bad \r\n2_2\t-0.5\tmeh\r\n3_1\t3\tgood\r\n"
    assert rated_rows(sdist(tmp_path / "a.tar.gz", table), "nyt") == [
        Rated("1_1", "good", "positive", "1"),
        Rated("2_1", "bad", "negative", "2"),
    ]
    with pytest.raises(InputError, match="nyt ratings, line 2: expected id, rating, text; got 2 fields"):
        rated_rows(sdist(tmp_path / "a.tar.gz", "1_1\t0.51\tgood\n1_2\t1"), "nyt")


def test_groups_are_never_split():
    from fft.data.sentiment import Rated, split_by_group

    rows = [Rated(f"{g}_{s}", f"text {g} {s}", "positive", str(g)) for g in range(100) for s in range(1 + g % 9)]
    splits = split_by_group(rows)
    groups = [{row.group for row in part} for part in splits.values()]
    assert sum(map(len, groups)) == 100 == len(set.union(*groups))
    shares = {name: len(part) / len(rows) for name, part in splits.items()}
    assert shares == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.03)
    assert split_by_group(rows[::-1])["test"] == splits["test"][::-1]
    assert split_by_group(rows, seed=1)["test"] != splits["test"]


def test_the_demo_data(demo_data):
    import tensorflow_datasets as tfds

    from fft.data import sentiment, sources

    counts = {
        "movie": (8032, 1004, 1005),
        "amazon": (2345, 291, 299),
        "nyt": (2198, 277, 276),
        "tweets": (2689, 336, 337),
    }
    assert sorted(counts) == sorted(sentiment.DOMAINS) == sorted(sources.DOMAINS)
    for domain, sizes in counts.items():
        builder = tfds.builder_from_directory(demo_data / "sentiment" / domain / "1.0.0")
        parts = [list(builder.as_data_source(name)) for name in ("train", "validation", "test")]
        assert tuple(map(len, parts)) == sizes
        for what in ("group", "text"):
            sets = [{row[what] for row in part} for part in parts]
            assert sum(map(len, sets)) == len(set.union(*sets))
        assert len({row["text"] for part in parts for row in part}) == sum(sizes)
        assert all(0.3 < sum(row["label"] for row in part) / len(part) < 0.75 for part in parts)
    assert "tensorflow" not in sys.modules


def test_minilm(minilm):
    assert "minilm" in minilm.name
    assert sorted(path.name for path in minilm.iterdir()) == sorted(demo.MINILM_FILES)
