"""Files of plain text as documents: one each, or the blocks between their blank lines where there are few files."""

import re
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from fft.core.errors import InputError, MachineError
from fft.data.content import check_content, decoded
from fft.data.rows import Rows

ENDINGS = (".txt", ".md", ".py")
FEWEST = 20
"""documents, below which their blocks are the rows, so that there are enough of them to split and to resample"""
_BLANK = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


def document_files(path: Path) -> list[Path]:
    """Return the files of plain text that a path names: itself, those below a folder, or those that fit a pattern."""
    if path.is_dir():
        found = [file for ending in ENDINGS for file in path.glob(f"**/*{ending}")]
    elif path.exists():
        found = [path]
    else:
        found = [Path(name) for name in glob(str(path), recursive=True)]
    return sorted(file for file in found if file.is_file() and file.suffix.lower() in ENDINGS)


def read_documents(source: str, files: Sequence[Path]) -> Rows:
    """Read files as documents in their order, or as their blocks if they are fewer than FEWEST.

    Raises: InputError for a file that is no text, or without any text; MachineError if one cannot be read.
    """
    texts = [_text(file) for file in files]
    complete = len(texts) >= FEWEST
    if not complete:
        texts = [block.strip("\r\n") for text in texts for block in _BLANK.split(text.replace("\r\n", "\n"))]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise InputError(f"{source}: no text: give files with some")
    return Rows(texts, None, [0] * len(texts), list(range(1, len(texts) + 1)), source, complete)


def _text(file: Path) -> str:
    try:
        check_content(file, file.suffix.lower())
        text = decoded(file)
    except OSError as error:
        raise MachineError(f"{file}: cannot be read: {error.strerror or error}") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{file}, line {line}: a zero byte, so this is no text: leave the file out, or convert it")
    return text
