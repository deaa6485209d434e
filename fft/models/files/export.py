"""Saving a Checkpoint as a folder that transformers can load, atomically."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from fft.core.errors import InputError, MachineError
from fft.core.naming import UNEMBED
from fft.core.settings import listed
from fft.core.tree import flatten
from fft.disk.files import write_json
from fft.disk.local import local
from fft.models.decoder import Decoder, DecoderShape
from fft.models.files.config import read_json
from fft.models.files.folders import CONFIG
from fft.models.files.heads import HEADS_JSON, HEADS_TENSORS, check_name, label_fields, write_record
from fft.models.files.keys import from_params, stored
from fft.models.files.tensors import INDEX, WEIGHTS, read_tensors
from fft.models.files.unembed import PREFIX, written_keys
from fft.models.layers import Config
from fft.models.model import Checkpoint, Family, Head

CHAT_TEMPLATE = "chat_template.jinja"  # it goes before the template in tokenizer_config.json
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    TOKENIZER_CONFIG,
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    CHAT_TEMPLATE,
    "generation_config.json",
)
SHARD_BYTES = 5 * 1000**3
PRIVATE = (
    "_name_or_path",
    "_commit_hash",
    "num_labels",
    "torch_dtype",
)  # paths, and duplicates of id2label and dtype


def save(
    checkpoint: Checkpoint,
    folder: str | Path,
    families: Mapping[str, Family],
    primary: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    beside: Mapping[str, object] | None = None,
) -> Path:
    """Write a checkpoint as a Hugging Face folder and return its path.

    The head `primary` (default: the checkpoint's own) becomes the classifier; other heads go to extra files, so that
    `load` restores all of them. `beside` is {file name: JSON data} to write into the folder too. Weights are written in
    raw_config['dtype'], read back and compared. The folder is written under another name first, and replaces an older
    checkpoint of fft only when it is complete.
    Raises: InputError for an unknown head or a folder with other content, MachineError if the disk fails.
    """
    folder = Path(os.path.abspath(local(folder, "--out")))
    primary = choose_primary(checkpoint, primary)
    with written_whole(folder) as partial:
        write(checkpoint, partial, families[checkpoint.model.family], primary, shard_bytes)
        for name, data in (beside or {}).items():
            write_json(partial / name, data)
    return folder


@contextmanager
def written_whole(folder: str | Path) -> Iterator[Path]:
    """Context with a new empty folder to write into; at the end it becomes `folder`, replacing what fft wrote there.

    Raises: InputError for a folder with other content, MachineError if the disk fails; nothing is changed then.
    """
    folder = Path(os.path.abspath(local(folder, "--out")))
    try:
        check_replaceable(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            put_in_place(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise MachineError(
            f"the model could not be written to {folder}: {error.strerror}; nothing was changed; choose another --out"
        ) from None


def choose_primary(checkpoint: Checkpoint, primary: str | None) -> str | None:
    """Return the head to store as the classifier: `primary`, else the checkpoint's own, else the first one. With the
    language head as `primary` there is none, and the checkpoint is a language model.

    Raises: InputError for a name that no head has or that is no valid name, for heads that differ from those of the
    parameters, and for a prompt, which a Hugging Face checkpoint cannot hold.
    """
    heads = checkpoint.heads
    if "prompt" in checkpoint.params:
        raise InputError(
            "this model reads a trained prompt or prefix, which no Hugging Face checkpoint holds: it stays an adapter "
            "of its base, which fft export RUN --to peft writes, and --adapter of fft generate and fft eval reads"
        )
    if set(heads) != set(checkpoint.params.get("heads", {})):
        raise InputError(
            f"heads {sorted(heads)} do not match the parameters' {sorted(checkpoint.params.get('heads', {}))}"
        )
    for name in heads:
        check_name(name)
    if UNEMBED in (primary, checkpoint.primary if primary is None else None) and checkpoint.language:
        return None
    if primary is None:
        primary = checkpoint.primary if checkpoint.primary in heads else next(iter(heads), None)
    if primary is not None and primary not in heads:
        raise InputError(f"there is no head {primary!r} to store as the classifier; heads: {', '.join(heads)}")
    return primary


def check_replaceable(folder: Path) -> None:
    """Check that `folder` is new, empty, or a model or adapter written by fft. Raises: InputError if not."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / HEADS_JSON).exists():
        raise InputError(f"{folder} is not empty and holds no model written by fft; choose another folder or empty it")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose a folder for the model")


def write(checkpoint: Checkpoint, folder: Path, family: Family, primary: str | None, shard_bytes: int) -> None:
    """Write and verify all files of a checkpoint into an empty folder."""
    model, raw = checkpoint.model, checkpoint.raw_config
    dtype = jnp.dtype(raw.get("dtype", "float32"))
    leaves = flatten(checkpoint.params)
    language = written_keys(family, model.config) if primary is None and checkpoint.language else None
    tensors = family.join(from_params(leaves, family, model.config, primary, dtype, language))
    write_shards(tensors, folder, shard_bytes)
    others = {
        path: stored(leaf, path, dtype)
        for path, leaf in leaves.items()
        if (path.startswith("heads/") and path.split("/")[1] != primary)
        or (path.startswith(PREFIX) and language is None)
    }
    if others:
        write_tensors(others, folder / HEADS_TENSORS)
    write_json(folder / HEADS_JSON, write_record(checkpoint.heads, primary, checkpoint.max_length))
    head = None if primary is None else checkpoint.heads.get(primary)
    write_json(folder / CONFIG, config_json(raw, model.config, family, head, dtype, language is not None))
    for name in TOKENIZER_FILES:
        if (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, folder / name)
    if checkpoint.template is not None:
        (folder / CHAT_TEMPLATE).write_text(checkpoint.template, encoding="utf-8")
    if checkpoint.max_length is not None:
        write_length(checkpoint.max_length, folder / TOKENIZER_CONFIG)


def write_length(max_length: int, path: Path) -> None:
    """Write the length to which texts were truncated in training as the tokenizer's default maximum."""
    config = read_json(path) if path.is_file() else {}
    write_json(path, {**config, "model_max_length": max_length})


def config_json(
    raw: dict[str, Any], config: Config, family: Family, head: Head | None, dtype: np.dtype, predicts: bool
) -> dict[str, Any]:
    """Return the config.json to write: the one read, updated with the architecture, labels and dtype written."""
    public = {name: value for name, value in raw.items() if name not in PRIVATE}
    if head is None:
        architecture = family.language.architecture if predicts else f"{family.architecture}Model"
        return {**public, "architectures": [architecture], "dtype": dtype.name}
    architecture = f"{family.architecture}ForSequenceClassification"
    return {
        **public,
        **pad_field(raw, family, config),
        "architectures": [architecture],
        "dtype": dtype.name,
        **label_fields(head),
    }


def pad_field(raw: dict[str, Any], family: Family, config: Config) -> dict[str, int]:
    """Return a pad_token_id for a decoder without one, by which transformers finds the last token of a row.

    It is the token that begins texts, as no text ends in it, else one that ends them. `raw` is the config.json of which
    `config` was read; one that leaves the field out may still have the family's own.
    """
    if family.network is not Decoder or cast("DecoderShape", config.shape).pad is not None:
        return {}
    names = ("bos_token_id", "eos_token_id")
    ids = (number for name in names for number in listed(raw.get(name)) if type(number) is int)
    return {"pad_token_id": next(ids, 0)}


def write_shards(tensors: dict[str, np.ndarray], folder: Path, shard_bytes: int) -> None:
    """Write one file or, if it would exceed `shard_bytes`, numbered shards and their index."""
    shards: list[dict[str, np.ndarray]] = [{}]
    used = 0
    for name, value in tensors.items():
        if shards[-1] and used + value.nbytes > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = value
        used += value.nbytes
    if len(shards) == 1:
        return write_tensors(tensors, folder / WEIGHTS)
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards, start=1):
        name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(shard, folder / name)
        weight_map.update(dict.fromkeys(shard, name))
    total = sum(value.nbytes for value in tensors.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_tensors(tensors: dict[str, np.ndarray], path: Path) -> None:
    """Write one safetensors file, read it back and compare every bit. Raises: OSError if this fails."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"})
        path.chmod(path.parent.stat().st_mode & 0o666)  # the library makes it readable only for the owner
        read = read_tensors(path)
    except (SafetensorError, InputError) as error:  # the library reports a full disk as a SafetensorError
        raise OSError(None, str(error)) from None
    wrong = [name for name, value in tensors.items() if value.tobytes() != read[name].tobytes()]
    if wrong:
        raise OSError(None, f"{path.name} reads back differently from what was written, first in {wrong[0]}")


def put_in_place(partial: Path, folder: Path) -> None:
    """Rename the complete folder to `folder`; an older one is renamed first and deleted last."""
    if not folder.exists() or not any(folder.iterdir()):
        os.replace(partial, folder)
        return
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    os.replace(folder, old)
    try:
        os.replace(partial, folder)
    except OSError:
        os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
