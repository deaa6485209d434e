"""The bytes of a data file as text."""

from pathlib import Path

from fft.errors import InputError


def decoded(path: Path) -> str:
    """The whole file as text; a byte order mark is dropped."""
    content = path.read_bytes()
    if not content.strip():
        raise InputError(f"{path}: the file is empty")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        offset = error.start + len(content) - len(error.object)  # the codec counts from behind a byte order mark
        line = content.count(b"\n", 0, offset) + 1
        raise InputError(
            f"{path}, line {line}: not valid UTF-8 at byte {offset} (0x{content[offset]:02x}). Save the file as UTF-8."
        ) from None
