"""Ownership of output folders."""

import errno
import fcntl
import os

import pytest

from fft.core.errors import InputError, MachineError
from fft.data import demo
from fft.disk.folder import EXPERIMENT, KINDS, FolderLock, refuse_foreign, refuse_taken


@pytest.mark.parametrize("own", KINDS)
@pytest.mark.parametrize("mark", KINDS)
def test_a_folder_of_another_kind_is_refused_by_what_it_holds(tmp_path, own, mark):
    refuse_foreign(tmp_path, own)
    (tmp_path / mark).touch()
    if mark == own:
        refuse_foreign(tmp_path, own)
    else:
        with pytest.raises(InputError, match=f"holds {KINDS[mark]}; choose another --out"):
            refuse_foreign(tmp_path, own)


def test_a_missing_folder_has_no_owner(tmp_path):
    refuse_foreign(tmp_path / "new", EXPERIMENT)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    problem = rf"is on a file system without locks \(flock: {os.strerror(number)}\); "
    with (
        pytest.raises(MachineError, match=rf"^{tmp_path}/run {problem}choose another folder$"),
        FolderLock(tmp_path / "run"),
    ):
        pass
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MachineError, match=rf"^{tmp_path}/fft {problem}name another cache folder"):
        demo.minilm_folder()


def test_a_link_to_nothing_is_no_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for out in (tmp_path / "link", tmp_path / "link" / "run"):
        with pytest.raises(InputError, match=r"link is a link to .*/gone, which does not exist"):
            refuse_taken(out)
        with pytest.raises(InputError, match=r"link is a link to .*/gone, which does not exist"), FolderLock(out):
            pass
    (tmp_path / "gone").mkdir()
    refuse_taken(tmp_path / "link" / "run")
