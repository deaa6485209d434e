import errno
import fcntl
import os

import pytest

from fft.core.errors import MachineError
from fft.disk import cache


def test_compiled_programs_are_kept_in_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("DIR", "MAX_SIZE"):
        monkeypatch.delenv(f"JAX_COMPILATION_CACHE_{name}", raising=False)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    cache.keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "fft" / "compiled")
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "7", "the user's own setting is unchanged"


def test_a_relative_cache_folder_counts_as_none(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for relative in ("my-cache", "~/.cache", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert str(cache.cache_folder()) == "/home/me/.cache/fft"


def test_without_a_home_folder_there_is_no_cache(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "taken out below, and put back")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    cache.keep_compiled_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    with pytest.raises(MachineError, match="no home folder is known for the cache; set XDG_CACHE_HOME"):
        cache.cache_folder()


def test_a_folder_that_cannot_be_written_means_no_cache(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "as it was")
    cache.keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "as it was"


def test_a_file_system_without_locks_means_no_cache(monkeypatch, tmp_path):
    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "taken out below, and put back")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(fcntl, "flock", flock)
    cache.keep_compiled_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ and not list((tmp_path / "fft" / "compiled").iterdir())


def test_a_cache_of_the_users_own_gets_no_limit_from_us(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_MAX_SIZE", raising=False)
    cache.keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path)
    assert "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ


def test_an_entry_that_a_kill_left_half_written_is_removed(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    folder = tmp_path / "fft" / "compiled"
    folder.mkdir(parents=True)
    for name in ("jit_step-1-cache", "jit_step-1-atime", "jit_step-2-cache", "jit_step-3-atime", ".lockfile"):
        (folder / name).write_text("")
    cache.keep_compiled_programs()
    left = {path.name for path in folder.iterdir()}
    assert left == {"jit_step-1-cache", "jit_step-1-atime", "jit_step-3-atime", ".lockfile"}
