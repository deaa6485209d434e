"""Sources of rows: file:PATH, demo:NAME, tfds:NAME, hf:NAME, each with named splits that are read lazily."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from fft.core.errors import FFTError, InputError, MachineError
from fft.data.folders import saved_to_disk
from fft.data.readers import columns_in, read_file
from fft.data.rows import Columns, Rows, collect_named, require_columns
from fft.disk.local import expanded, local

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

ROLES = ("train", "validation", "test")
SPELLINGS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
DOMAINS = ("movie", "amazon", "nyt", "tweets")


class Source(NamedTuple):
    """An opened source: its name, its splits, `read(split, columns)`, and the names of its columns."""

    name: str
    splits: tuple[str, ...]
    read: Callable[[str, Columns], Rows]
    columns: Callable[[], tuple[str, ...]]

    def spelled(self, role: str) -> str | None:
        """Return this source's own name for the split `role`; None if it has none."""
        return next((name for name in SPELLINGS[role] if name in self.splits), None)


def open_source(source: str) -> Source:
    """Open `source` without reading rows.

    file:PATH or a bare path (CSV, TSV, JSONL, Parquet by the ending; one split) · demo:NAME[/SPLIT] (movie, amazon,
    nyt, tweets) · tfds:NAME[/CONFIG][/SPLIT] or tfds:FOLDER[/SPLIT] (array_record) · hf:NAME[:CONFIG][/SPLIT].

    Raises: InputError if the source does not exist, MachineError if it needs a network and there is none.
    """
    scheme, colon, rest = source.partition(":")
    if colon and scheme in _OPENERS:
        return _OPENERS[scheme](source, rest)
    other = colon and len(scheme) > 1 and (scheme.isalnum() or rest.startswith("//"))
    if other and not Path(source).exists():
        raise InputError(
            f"{source}: unknown kind of source {scheme!r}: give {', '.join(_OPENERS)} or a path, and copy remote data "
            "to a local file"
        )
    return _open_file(source, source)


def read_source(source: str, columns: Columns) -> dict[str, Rows]:
    """Read all splits of `source`; a file has the single split 'all'."""
    opened = open_source(source)
    return {name: opened.read(name, columns) for name in opened.splits}


@contextlib.contextmanager
def _as_one_message(source: str) -> Iterator[None]:
    """Turn exceptions of a source's library into InputError, or MachineError for errors of the system."""
    try:
        yield
    except FFTError:
        raise
    except Exception as error:
        system = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        message = f"{source}: cannot be read: {type(error).__name__}: {reason}. Download or prepare it again."
        raise (MachineError if system else InputError)(message) from error


def _fetched(source: str, records: Iterable[Mapping]) -> Iterator[Mapping]:
    """Yield the records of a library's reader, which opens its files lazily, with its errors converted."""
    reader = iter(records)
    while True:
        with _as_one_message(source):
            try:
                record = next(reader)
            except StopIteration:
                return
        yield record


def _open_file(source: str, path: str) -> Source:
    if not path:
        raise InputError(f"{source!r} has no path: give one, such as file:new.csv")
    file = Path(expanded(path, "the data"))
    return Source(source, ("all",), lambda split, columns: read_file(file, columns), lambda: columns_in(file))


def _open_demo(source: str, rest: str) -> Source:
    domain, _, split = rest.partition("/")
    if domain not in DOMAINS:
        raise InputError(f"{source}: no demo data {domain!r}: choose from {', '.join(DOMAINS)}")
    from fft.data.demo import demo_data

    return _from_builder(source, _folder_builder(demo_data() / "sentiment" / domain / "1.0.0"), split)


def _open_tfds(source: str, rest: str) -> Source:
    name, _, split = rest.rpartition("/") if _ends_in_split(rest) else (rest, "", "")
    if name.startswith("huggingface:"):
        raise InputError(f"{source}: use hf:{name.removeprefix('huggingface:')} for a data set of the Hugging Face hub")
    folder = Path(local(name, "tfds"))
    with _as_one_message(source):
        builder = _folder_builder(folder) if folder.is_dir() else _named_builder(source, name)
    return _from_builder(source, builder, split)


def _ends_in_split(name: str) -> bool:
    last = name.rpartition("/")[2]
    return "/" in name and any(last in names for names in SPELLINGS.values()) and not Path(name).is_dir()


def _folder_builder(folder: Path) -> "tfds.core.DatasetBuilder":
    """Return the builder of a prepared folder, the one with dataset_info.json. Raises: InputError."""
    import tensorflow_datasets as tfds

    if problem := saved_to_disk(folder):
        raise InputError(problem)
    if not (folder / "dataset_info.json").is_file():
        below = [path.parent.name for path in sorted(folder.glob("*/dataset_info.json"))]
        hint = f" Name one of its folders: {', '.join(below)}." if below else ""
        raise InputError(f"{folder}: no prepared tfds data in this folder: there is no dataset_info.json.{hint}")
    return tfds.builder_from_directory(folder)


def _named_builder(source: str, name: str) -> "tfds.core.DatasetBuilder":
    """Prepare a data set of tfds as array_record and return its builder.

    Raises: InputError for an unknown name or a missing package, MachineError if it cannot be downloaded.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    _ = tfds.text.Glue  # importing this registers all of the older text data sets
    try:
        builder = tfds.builder(name, file_format="array_record", try_gcs=False)
    except (DatasetNotFoundError, ValueError, AttributeError) as error:
        raise InputError(f"{source}: tfds has no data set {name!r}: {str(error).splitlines()[0]}") from None
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for the command's result
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except OSError as error:
        raise MachineError(f"{source}: tfds cannot download or write it: {error}") from error
    except ImportError as error:
        raise InputError(f"{source}: preparing it needs the Python package {error.name}: install it") from None
    return builder


def _from_builder(source: str, builder: "tfds.core.DatasetBuilder", split: str) -> Source:
    splits = tuple(builder.info.splits)
    if split and split not in splits:
        raise InputError(f"{source}: no split {split!r}: choose from {', '.join(splits)}")

    def read(name: str, columns: Columns) -> Rows:
        features = cast("Mapping[str, Any]", builder.info.features)  # always a FeaturesDict for rows
        require_columns(source, sorted(features), columns)  # tfds has no column order
        names = _class_names(features, columns)
        with _as_one_message(source):
            try:
                records = builder.as_data_source(name)  # pyright: ignore[reportCallIssue]  # tfds wraps it untyped
            except NotImplementedError as error:
                raise InputError(
                    f"{source}: not prepared as array_record, which reading without TensorFlow needs: {error}. "
                    "Prepare it with file_format='array_record'"
                ) from None
        where = source if split else f"{source}/{name}"
        return collect_named(where, columns, _fetched(where, records), names)

    return Source(
        source,
        (split,) if split else splits,
        read,
        lambda: tuple(sorted(cast("Mapping[str, Any]", builder.info.features))),
    )


def _class_names(features: Mapping[str, Any], columns: Columns) -> list[str] | None:
    """Return the class names if the label column holds class numbers, else None."""
    return None if columns.label is None else getattr(features[columns.label], "names", None)


def _open_hf(source: str, rest: str) -> Source:
    try:
        import datasets  # pyright: ignore[reportMissingImports]  # of the extra `hub`, which need not be installed
    except ImportError:
        raise InputError(f"{source}: reading from the Hugging Face hub needs `pip install 'fft-jax[hub]'`") from None
    name, _, split = rest.rpartition("/") if _ends_in_split(rest) else (rest, "", "")
    name, _, config = name.partition(":")
    if Path(name).exists():
        raise InputError(
            f"{source}: the local folder {name!r} would be read instead of the hub: use file:, or run in another folder"
        )
    with _as_one_message(source):
        try:
            loaded: Any = datasets.load_dataset(name, config or None)  # of its four types, the one with a table a split
        except datasets.exceptions.DatasetNotFoundError as error:  # pyright: ignore[reportAttributeAccessIssue]
            raise InputError(f"{source}: {error}") from None
        except ValueError as error:  # a config that is missing or unknown
            raise InputError(f"{source}: {error}. Name a configuration as hf:NAME:CONFIG.") from None
        except OSError as error:
            raise MachineError(
                f"{source}: the hub cannot be reached: {error}. Run this again with a network."
            ) from error
    splits = tuple(loaded)
    if split and split not in splits:
        raise InputError(f"{source}: no split {split!r}: choose from {', '.join(splits)}")

    def read(part: str, columns: Columns) -> Rows:
        table = loaded[part]
        require_columns(source, table.column_names, columns)
        names = _class_names(table.features, columns)
        where = source if split else f"{source}/{part}"
        return collect_named(where, columns, _fetched(where, table), names)

    return Source(source, (split,) if split else splits, read, lambda: tuple(loaded[(split or splits[0])].column_names))


_OPENERS = {
    "file": _open_file,
    "demo": _open_demo,
    "tfds": _open_tfds,
    "hf": _open_hf,
}
