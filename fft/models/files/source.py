"""Where a model is: a local folder, or a source that is made one: a GGUF file, hf:NAME on the hub, demo:NAME."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from fft.core.errors import InputError, MachineError
from fft.disk.local import local
from fft.models.files.demo import demo_model
from fft.models.files.export import written_whole
from fft.models.files.gguf_file import is_gguf
from fft.models.files.gguf_folder import converted, write_folder
from fft.models.model import Family

PATTERNS = ("*.safetensors", "*.json", "*.jinja", "vocab.txt", "merges.txt", "*.model")


def find_folder(source: str | Path, families: Mapping[str, Family]) -> Path:
    """Return the folder that a model is read from, a GGUF file's in the cache, without checking what is in it.

    Raises: as `local`, `download`, `demo_model` and `converted`.
    """
    source = local(source, "the model", hub=True)
    scheme, _, name = source.partition(":")
    if scheme == "hf":
        return download(name)
    if scheme == "demo":
        return demo_model(name, families)
    path = Path(source)
    return converted(path, families) if is_gguf(path) else path


def is_converted(source: str) -> bool:
    """Whether a source is a GGUF file or demo:NAME, which become folders by being converted."""
    return source.startswith("demo:") or is_gguf(Path(source))


def export_model(source: str | Path, out: str | Path, families: Mapping[str, Family]) -> Path:
    """Write the model of a GGUF file or of demo:NAME as a Hugging Face folder and return its path.

    Raises: InputError for a folder with other content, MachineError if the disk fails; as `find_folder`. Nothing is
    changed then.
    """
    path = Path(local(source, "the model", hub=True))
    with written_whole(out) as partial:
        if is_gguf(path):
            write_folder(path, partial, families)
        else:
            for file in find_folder(source, families).iterdir():
                shutil.copyfile(file, partial / file.name)
    return Path(os.path.abspath(local(out, "--out")))


def download(name: str) -> Path:
    """Download the safetensors, JSON and tokenizer files of a hub repository to the hub's cache; return the folder.

    Raises: InputError for a repository that does not exist or cannot be accessed, MachineError without network.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(PATTERNS)))
    except errors.HFValidationError:
        raise InputError(f"hf:{name} is not a repository name; expected hf:OWNER/NAME") from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise InputError(f"hf:{name} does not exist on the hub, or is private or gated") from None
    except Exception as error:  # the hub's client raises errors of several HTTP libraries
        raise MachineError(
            f"hf:{name} could not be fetched ({type(error).__name__}), and is not in its cache: check the network, "
            "or give the path of a local folder"
        ) from error
