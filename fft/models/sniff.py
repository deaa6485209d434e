"""What a file really is, from its first bytes: so that a wrong download is called by its name."""

import os

from fft.errors import InputError, MachineError
from fft.record import parsed

LFS = b"version https://git-lfs.github.com/spec"


def check_not_pointer(path):
    """Refuse a git-lfs pointer, a web page or an empty file in place of `path`; a missing file is not checked."""
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as error:
        raise MachineError(f"{path} cannot be read: {error.strerror}") from None
    if start.startswith(LFS):
        raise InputError(
            f"{path} is a git-lfs pointer, not the file itself: run `git lfs pull` in its repository, or download it"
        )
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(f"{path} is a web page, not the file itself: download the raw file again")
    if not start:
        raise InputError(f"{path} is empty: download it again")


def check_safetensors(path):
    """Refuse a file that is not one whole safetensors file: pickles, pointers, pages, truncated downloads."""
    check_not_pointer(path)
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")):
            raise InputError(f"{path} is a pickle under another name; pickles can run code and are never read")
        header_bytes = int.from_bytes(start, "little")
        if len(start) < 8 or header_bytes > size:
            raise InputError(f"{path} ({size} bytes) is not a whole safetensors file: download it again")
        try:
            header = parsed(file.read(header_bytes))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise InputError(f"{path} is not a safetensors file: its header cannot be read") from None
    expected = 8 + header_bytes + max(ends, default=0)
    if size != expected:
        raise InputError(f"{path} is truncated or damaged: {size} bytes where its header promises {expected}")
