"""Detection of file formats from the first bytes, for clear errors about wrong downloads."""

import codecs
import os
import zipfile
from pathlib import Path

from fft.core.errors import InputError, MachineError
from fft.disk.files import parsed

LFS = b"version https://git-lfs.github.com/spec"
PAGES = (b"<!doctype", b"<html", b"<?xml")
ZIP = b"PK\x03\x04"
PICKLES = (ZIP, b"\x80\x02", b"\x80\x03", b"\x80\x04")
"""how torch's pickles begin"""
FORMATS = {
    b"\x1f\x8b": "is compressed with gzip: unpack it with gunzip",
    b"BZh91AY&SY": "is compressed with bzip2: unpack it with bunzip2",
    b"\xfd7zXZ\x00": "is compressed with xz: unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: unpack it with unzstd",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "is an old Excel workbook: save its sheet as CSV (UTF-8)",
    b"SQLite format 3\x00": "is an SQLite database: write its rows to a CSV file",
    b"\x80\x04\x95": "is a pickle, which can run code and is never read: write its rows to a CSV file",
    b"\x80\x05\x95": "is a pickle, which can run code and is never read: write its rows to a CSV file",
    codecs.BOM_UTF16_LE: "is text in UTF-16: save it as UTF-8",
    codecs.BOM_UTF16_BE: "is text in UTF-16: save it as UTF-8",
}


def first_bytes(path: str | Path, count: int = 512) -> bytes:
    """Return the first bytes of a file, at most `count`. Raises: MachineError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise MachineError(f"{path} cannot be read: {error.strerror}") from None


def wrong_download(start: bytes) -> str | None:
    """Return what is wrong with a download that begins with these bytes, and the remedy; None if nothing is."""
    if start.startswith(LFS):
        return "is a git-lfs pointer, not the file itself: run `git lfs pull` in its repository, or download it"
    if start.removeprefix(codecs.BOM_UTF8).lstrip().lower().startswith(PAGES):
        return "is a web page, not the file itself: download the raw file again"
    return None


def other_format(path: str | Path, start: bytes) -> str | None:
    """Return the format and the remedy for a file at `path` that begins with `start` and is not text, else None."""
    if start.startswith(ZIP):
        return _archive(path)
    return next((remedy for magic, remedy in FORMATS.items() if start.startswith(magic)), None)


def _archive(path: str | Path) -> str:
    """Return the format and the remedy for a zip archive, which may be a workbook."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        names = []
    if any(name.startswith("xl/") for name in names):
        return "is an Excel workbook: save its sheet as CSV (UTF-8)"
    if "content.xml" in names:
        return "is an OpenDocument file: save its sheet as CSV (UTF-8)"
    return "is a zip archive: unpack it and name a file of it"


def check_not_pointer(path: str | Path) -> None:
    """Reject a git-lfs pointer, a web page or an empty file. Raises: InputError; MachineError if it cannot be read."""
    start = first_bytes(path)
    if problem := wrong_download(start):
        raise InputError(f"{path} {problem}")
    if not start:
        raise InputError(f"{path} is empty: download it again")


def check_safetensors(path: str | Path) -> None:
    """Reject a file that is not a complete safetensors file: a pickle, pointer, web page or truncated download.

    Raises: InputError; MachineError if it cannot be read.
    """
    check_not_pointer(path)
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        header_bytes = int.from_bytes(start, "little")
        if header_bytes > size and start.startswith(PICKLES):  # a header may have 0x280 bytes, as a pickle begins
            raise InputError(
                f"{path} is a pickle under another name, and pickles, which can run code, are never read; give a "
                "safetensors file"
            )
        if len(start) < 8 or header_bytes > size:
            raise InputError(f"{path} ({size} bytes) is not a complete safetensors file: download it again")
        try:
            header = parsed(file.read(header_bytes))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise InputError(
                f"{path} is not a safetensors file, as its header cannot be read: download it again"
            ) from None
    expected = 8 + header_bytes + max(ends, default=0)
    if size != expected:
        raise InputError(
            f"{path} is truncated or damaged: it has {size} bytes, its header says {expected}; download it again"
        )
