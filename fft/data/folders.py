"""Messages for a path that is not a data file: a folder, the parts of a table, a pattern, or nothing."""

import shlex
from collections import Counter
from collections.abc import Sequence
from glob import glob
from itertools import chain
from pathlib import Path

from fft.data.convert import from_disk, joined
from fft.data.documents import ENDINGS as TEXTS

SHOWN = 3


def no_file(path: Path, endings: Sequence[str]) -> str:
    """Describe the problem with a path that is not a file, and the remedy; `endings` are the supported ones."""
    if path.is_dir():
        return _folder(path, endings)
    expected = f"a {path.suffix[1:].lower()} file" if path.suffix.lower() in endings else ", ".join(endings)
    if path.exists():
        return f"{path} is a pipe or a device: save the rows in a file, {', '.join(endings)}"
    if matches := [name for name in glob(str(path)) if Path(name).is_file()]:
        words = str(path) if " " not in str(path) else "FILES"
        return (
            f"{path}: there is no such file, and patterns are not expanded. Name one of the {len(matches)} files that "
            f"match, or join them: {joined(Path(matches[0]).suffix, words)}"
        )
    if not set("*?[") & set(str(path)):
        return f"{path}: there is no such file; expected {expected}"
    if path.suffix.lower() in TEXTS:
        return f"{path}: no file matches this pattern"
    return f"{path}: there is no such file, and patterns are not expanded; expected {expected}"


def saved_to_disk(folder: Path) -> str | None:
    """Describe how to convert a folder written by the datasets library's save_to_disk; None for other folders."""
    splits = (folder / "dataset_dict.json").is_file()
    if not splits and not (folder / "state.json").is_file():
        return None
    return (
        f"{folder} is a folder of datasets' save_to_disk, which is not supported. Convert it to Parquet: "
        f"{from_disk(folder, splits)}"
    )


def _folder(path: Path, endings: Sequence[str]) -> str:
    if problem := saved_to_disk(path):
        return problem
    if (path / "dataset_info.json").is_file():
        return f"{path} is a folder prepared by tfds: name it as tfds:{path}"
    files = sorted(file for file in chain(path.glob("*"), path.glob("*/*")) if file.suffix.lower() in endings)
    if not files:
        texts = ", ".join(TEXTS)
        return f"{path} is a folder without data: give a file, {', '.join(endings)}, or a folder of texts, {texts}"
    ending = Counter(file.suffix for file in files).most_common(1)[0][0]
    parts = [file for file in files if file.suffix == ending]
    named = ", ".join(map(str, parts[:SHOWN])) + (", …" if len(parts) > SHOWN else "")
    if len(parts) == 1:
        return f"{path} is a folder: name the file in it, {named}"
    depths = sorted({len(file.relative_to(path).parts) for file in parts})
    words = " ".join(f"{shlex.quote(str(path))}/{'*/' * (depth - 1)}*{ending}" for depth in depths)
    return (
        f"{path} is a folder, and parts are not joined. Name one of its {len(parts)} {ending} files ({named}), or join "
        f"them: {joined(ending.lower(), words)}"
    )
