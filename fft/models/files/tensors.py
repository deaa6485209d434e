"""Tensors by their stored names, from one safetensors file or from shards and their index; nothing else is read."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from fft.core.errors import InputError
from fft.disk.sniff import check_not_pointer, check_safetensors
from fft.models.files.config import read_json
from fft.models.files.folders import ADAPTER_CONFIG, choices, folders_with, instead_of_checkpoint

if TYPE_CHECKING:
    from safetensors import safe_open

Read = TypeVar("Read")

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CONVERT = (
    'python -c "from transformers import AutoModelForSequenceClassification as M, AutoTokenizer as T; '
    "M.from_pretrained('OLD').save_pretrained('NEW', safe_serialization=True); "
    "T.from_pretrained('OLD').save_pretrained('NEW')\""
)


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """Return {stored name: array} from a folder's model.safetensors, or from the shards in its index."""
    if (folder / WEIGHTS).exists():
        return read_tensors(folder / WEIGHTS)
    return read_shards(folder, read_index(folder))


def tensor_names(folder: Path) -> list[str]:
    """Return the names of a folder's tensors, without reading the tensors."""
    if (folder / WEIGHTS).exists():
        return stored_names(folder / WEIGHTS)
    return list(read_index(folder))


def read_index(folder: Path) -> dict[str, str]:
    """Return {stored name: shard} from a folder's index. Raises: InputError that says why there are no weights."""
    if not (folder / INDEX).exists():
        if (folder / ADAPTER_CONFIG).is_file():
            raise InputError(instead_of_checkpoint(folder))
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
        if pickles:
            raise InputError(
                f"{folder} holds its weights only as pickle ({', '.join(pickles)}), which can run code and is never "
                f"read; convert it, in an environment with torch that you trust it in: {CONVERT}"
            )
        folders = folders_with(WEIGHTS, folder)
        hint = f"; the checkpoints are in {choices(folders, folder)}" if folders else ""
        raise InputError(f"{folder} has neither {WEIGHTS} nor {INDEX}: no weights to load{hint}")
    check_not_pointer(folder / INDEX)
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise InputError(f"{folder / INDEX} is damaged: expected weight_map, tensor names to file names")
    return weight_map


def read_shards(folder: Path, weight_map: dict[str, str]) -> dict[str, np.ndarray]:
    """Return the tensors of all shards. Raises: InputError if a shard is missing or differs from the index."""
    where = folder / INDEX
    tensors: dict[str, np.ndarray] = {}
    placed: dict[str, str] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or not (folder / name).is_file():
            raise InputError(f"{where} names the shard {name}, which is not in {folder}")
        shard = read_tensors(folder / name)
        tensors.update(shard)
        placed.update(dict.fromkeys(shard, name))
    if placed != weight_map:
        wrong = sorted(key for key in {*placed, *weight_map} if placed.get(key) != weight_map.get(key))
        raise InputError(f"{where} and its shards disagree about {len(wrong)} tensors, such as {wrong[0]}")
    return tensors


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return {name: array} of one safetensors file. Raises: as `from_file`."""
    return from_file(path, lambda file: file.get_tensors())


def stored_names(path: Path) -> list[str]:
    """Return the names of the tensors in one safetensors file. Raises: as `from_file`."""
    return from_file(path, lambda file: list(file.keys()))


def from_file(path: Path, read: "Callable[[safe_open], Read]") -> Read:
    """Open a safetensors file and return `read(file)`. Raises: InputError if it is not a complete safetensors file."""
    from safetensors import SafetensorError, safe_open

    check_safetensors(path)
    try:
        with safe_open(path, framework="np") as file:
            return read(file)
    except (SafetensorError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def refuse_not_finite(tensors: Mapping[str, np.ndarray], where: str | Path) -> None:
    """Check that {name: array} has no NaN or infinity, which would make every score meaningless. Raises: InputError."""
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise InputError(
                f"{where}: {name} holds values that are not finite (NaN or infinity): check that the file is complete "
                "and that the training that wrote it did not diverge"
            )


def dtype_of(values: Iterable[np.ndarray]) -> str:
    """Return the dtype for saving: the common one of all weights, float32 if they differ."""
    names = {value.dtype.name for value in values}
    return names.pop() if len(names) == 1 else "float32"
