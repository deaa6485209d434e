"""Checks that a data file's bytes fit its ending, and decodes them."""

from pathlib import Path

from fft.core.errors import InputError
from fft.core.naming import agreeing
from fft.data.convert import from_arrow, from_cp1252
from fft.disk.sniff import first_bytes, other_format, wrong_download

PARQUET = b"PAR1"
_ARROW = {b"ARROW1\x00\x00": "open_file", b"\xff\xff\xff\xff": "open_stream"}


def check_content(path: Path, ending: str) -> None:
    """Check that the first bytes fit the ending. Raises: InputError with the actual format and the remedy."""
    start = first_bytes(path)
    if not start:
        raise InputError(f"{path}: the file is empty: give one with rows")
    if problem := wrong_download(start) or other_format(path, start):
        raise InputError(f"{path} {problem}")
    for magic, opened in _ARROW.items():
        if start.startswith(magic):
            raise InputError(f"{path} is an Arrow file. Write it as Parquet: {from_arrow(path, opened)}")
    if start.startswith(PARQUET) and ending != ".parquet":
        raise InputError(f"{path} is a Parquet file: rename it .parquet")
    if ending == ".parquet" and not start.startswith(PARQUET):
        raise InputError(f"{path} is not a Parquet file: it begins with {start[:20]!r}. Rename it, or write it again.")


def decoded(path: Path) -> str:
    """Return the file as text without a byte order mark. Raises: InputError if it is empty or not UTF-8."""
    content = path.read_bytes()
    if not content.strip():
        raise InputError(f"{path}: the file is empty: give one with some text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        offset = error.start + len(content) - len(error.object)  # the codec does not count the byte order mark
        line = content.count(b"\n", 0, offset) + 1
        where = f"{path}, line {line}: not valid UTF-8 at byte {offset} (0x{content[offset]:02x})"
        raise InputError(f"{where}; {_undecodable(path, content)}") from None


def _undecodable(path: Path, content: bytes) -> str:
    """Describe how many lines are not UTF-8, and the remedy.

    If the whole file decodes as Windows-1252 and no non-ASCII line is UTF-8, the remedy is a conversion command.
    """
    non_ascii = [line for line in content.split(b"\n") if not line.isascii()]
    count = sum(not _decodes(line, "utf-8") for line in non_ascii)
    extent = agreeing(count, "it is the only such line", f"{count:,} lines are not")
    if count < len(non_ascii) or not _decodes(content, "cp1252"):
        return f"{extent}. Save the file as UTF-8."
    return f"{extent}. All of it fits cp1252 (Windows-1252): {from_cp1252(path)}"


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
