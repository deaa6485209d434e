"""Artefacts: a tree of arrays in a safetensors file with its provenance in JSON, both verified by hash."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fft.core.errors import InputError
from fft.core.tree import Params, flatten, unflatten
from fft.disk.files import canonical, parsed_file, plain, replace_file, write_json, writing

_OWN = "provenance_sha256"
# safetensors' own numpy reader does not know bfloat16
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "U8": "uint8", "I32": "int32", "U32": "uint32"}
_AGAIN = "remove the folder and run the command that wrote it again"


def save_artefact(folder: str | Path, tree: Params, provenance: Mapping[str, Any]) -> None:
    """Write `tree` to FOLDER/tensors.safetensors, and `provenance` with the hashes of both to provenance.json.

    The JSON file is written last, so a folder without it is unfinished. A tree without leaves gives an empty file.
    Raises: MachineError if the disk is full or the folder cannot be written.
    """
    from safetensors.numpy import save

    folder = Path(folder)
    payload = save({path: np.asarray(leaf, order="C") for path, leaf in flatten(tree).items()})
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "tensors.safetensors", payload)
    record = plain({**provenance, "sha256": hashlib.sha256(payload).hexdigest()})
    write_json(folder / "provenance.json", {**record, _OWN: hashlib.sha256(canonical(record)).hexdigest()})


def load_artefact(folder: str | Path) -> tuple[Params, dict[str, Any]]:
    """Return the tree (jax arrays) and the provenance that `save_artefact` wrote.

    Raises: InputError if a file is missing, was changed, or is not JSON.
    """
    import jax.numpy as jnp
    from safetensors import deserialize

    folder = Path(folder)
    try:
        provenance = parsed_file(folder / "provenance.json")
        payload = (folder / "tensors.safetensors").read_bytes()
    except OSError as error:
        raise InputError(f"{folder} is not a finished artefact: {error.strerror}: {error.filename}") from None
    except ValueError as error:
        raise InputError(f"{folder}/provenance.json is not JSON: {error}; {_AGAIN}") from None
    own = provenance.pop(_OWN, None) if isinstance(provenance, dict) else None
    if own is None or own != hashlib.sha256(canonical(provenance)).hexdigest():
        raise InputError(f"{folder}/provenance.json is not the file that was written: its sha256 differs; {_AGAIN}")
    if hashlib.sha256(payload).hexdigest() != provenance["sha256"]:
        raise InputError(f"{folder}/tensors.safetensors is not the file that was written: its sha256 differs; {_AGAIN}")
    tensors = deserialize(payload)
    if strange := [f"{path} of {tensor['dtype']}" for path, tensor in tensors if tensor["dtype"] not in _DTYPES]:
        raise InputError(f"{folder}/tensors.safetensors holds {strange[0]}, which fft does not compute in; {_AGAIN}")
    arrays = {
        path: jnp.asarray(np.frombuffer(tensor["data"], jnp.dtype(_DTYPES[tensor["dtype"]])).reshape(tensor["shape"]))
        for path, tensor in tensors
    }
    return unflatten(arrays), provenance
