"""GGUF files as Hugging Face folders: written where the user wants one, or once into the cache, by their content."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from fft.core.errors import InputError
from fft.disk.cache import cache_folder
from fft.disk.files import write_json
from fft.disk.packages import once
from fft.models.files.export import SHARD_BYTES, write_shards
from fft.models.files.folders import CONFIG
from fft.models.files.gguf_file import check_begins, read_gguf
from fft.models.files.gguf_model import read_model_config, read_model_tensors
from fft.models.files.gguf_tokenizer import write_tokenizer
from fft.models.files.heads import HEADS_JSON, write_record
from fft.models.model import Family

CONVERSION = 1
"""part of the names in the cache; raised whenever a file would be converted otherwise than before"""


def write_folder(path: Path, folder: Path, families: Mapping[str, Family]) -> None:
    """Write the model in a GGUF file into an empty folder: weights in float32, configs, tokenizer, chat template.

    Raises: InputError for a file that is not a whole GGUF file, or holds what is not supported, by name; OSError if the
    folder cannot be written.
    """
    file = read_gguf(path)
    raw, config = read_model_config(file, families)
    write_tokenizer(file, raw["model_type"], folder)
    if (tokens := len(file.metadata["tokenizer.ggml.tokens"])) > config.vocab_size:
        raise InputError(f"{path} has {tokens} tokens, but embeddings of {config.vocab_size}: get the file again")
    write_json(folder / CONFIG, raw)
    write_json(folder / HEADS_JSON, write_record({}, None, None))  # by which a later export knows the folder as fft's
    write_shards(read_model_tensors(file, families[raw["model_type"]], config), folder, SHARD_BYTES)


def converted(path: Path, families: Mapping[str, Family]) -> Path:
    """Return the Hugging Face folder of a GGUF file in the cache, where it is written the first time.

    Raises: as `write_folder`; MachineError if the cache cannot be written.
    """

    def make(folder: Path, _: Path) -> None:
        folder.mkdir()
        write_folder(path, folder, families)

    check_begins(path)
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return once(cache_folder() / f"gguf-{CONVERSION}-{content[:32]}", make)
