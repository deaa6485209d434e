"""Read adapters from PEFT folders, and check that tensors and base match exactly."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fft.adapters.adapter import Adapter
from fft.adapters.config import MERGE, read_config
from fft.adapters.layout import Formats, Layout, Tensor, layout_of
from fft.adapters.prompt import KEY as PROMPT_KEY
from fft.adapters.writing import CONFIG, WEIGHTS
from fft.core.errors import InputError
from fft.core.tree import Params
from fft.disk.local import local
from fft.disk.sniff import check_not_pointer
from fft.methods import from_json
from fft.models import FAMILIES, Checkpoint, Head
from fft.models.files.config import read_json
from fft.models.files.folders import instead_of_adapter
from fft.models.files.heads import HEADS_JSON, ORIGINAL, alike, check_name, read_record, stored_length, width
from fft.models.files.keys import StoredTensor, body_keys, listed, to_tree
from fft.models.files.tensors import read_tensors, refuse_not_finite
from fft.models.heads import unused_head
from fft.models.layers import Config
from fft.models.model import Family

WORDS = "embed/word/embedding"
STATE_DICT = re.compile(  # keys with an adapter name or a wrapper module occur only in a model's state dict
    r"\.(lora_(embedding_)?[AB]|lora_magnitude_vector|ln_tuning_layers|ia3_l|modules_to_save)\.(?!(weight|bias)$)"
    r"|\.(base_layer|original_module)\.|^prompt_encoder\."
)
PICKLE = "adapter_model.bin"
CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file as s; '
    f"s(torch.load('{PICKLE}', weights_only=True), '{WEIGHTS}')\""
)


def load(folder: str | Path, base: Checkpoint, formats: Formats) -> Adapter:
    """Load the Adapter in a PEFT folder for the Checkpoint `base`; weights become float32 jax arrays.

    Raises: InputError for a peft_type or a setting that is not supported, and for tensors that are unknown, missing, of
    another shape or not floating point, which mostly means an adapter of another base.
    """
    folder = Path(local(folder, "the adapter"))
    raw = read_raw(folder)
    if raw["peft_type"] not in formats:
        raise InputError(
            f"{folder}: peft_type {raw['peft_type']!r} is not supported; supported are {', '.join(formats)}"
        )
    form = formats[raw["peft_type"]]
    config, notes = read_config(form.config, raw, str(folder / CONFIG))
    method = from_json([form.method(config)], str(folder / CONFIG))
    family = FAMILIES[base.model.family]
    stored, left_out = without_ignored(read_weights(folder), form.prefix, family, folder)
    refuse_no_adapter(stored, folder)
    name, head, heads = head_of(folder, stored, base, f"{form.prefix}{family.head_rows[-1][0]}.weight")
    bare = is_bare(stored, form.prefix, family, base.model.config)
    layout = layout_of(family, base.model.config, name, 0 if head is None else width(head), bare)
    tensors = (*form.tensors(config, layout), *layout.saved_modules(form.prefix, config.saved))
    places = {place.key: place for place in tensors}
    places |= saved_words(stored, layout, form.prefix, folder, base.folder)
    refuse_not_finite(stored, folder)
    theta = to_theta(stored, places, folder, base.folder)
    return Adapter(method, theta, heads, name if heads else None, notes + left_out, stored_length(folder))


def without_ignored(
    stored: dict[str, np.ndarray], prefix: str, family: Family, folder: Path
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the tensors without those of modules that the family ignores in checkpoints too, and a note on them."""
    ignored = [re.compile(pattern) for pattern in family.ignored]
    short = {key: key.removeprefix(prefix).removeprefix(f"{family.prefix}.") for key in stored}
    dropped = [
        key for key in stored if key.startswith(prefix) and any(pattern.fullmatch(short[key]) for pattern in ignored)
    ]
    if not dropped:
        return stored, ()
    note = f"{folder}: a {family.name} classifier has no modules for {listed(dropped)}; they are left out"
    return {key: value for key, value in stored.items() if key not in dropped}, (note,)


def refuse_no_adapter(stored: Collection[str], folder: Path) -> None:
    """Refuse LoRA on embeddings, which is not supported, and a model's state dict in place of an adapter.

    Raises: InputError that names the tensors.
    """
    where = folder / WEIGHTS
    if embedded := [key for key in stored if ".lora_embedding_" in key]:
        named = ", ".join(dict.fromkeys(key.partition(".lora_embedding_")[0] for key in embedded))
        raise InputError(f"{where}: LoRA on embeddings is not supported, and is here on {named}; {MERGE}")
    if wrong := [key for key in stored if STATE_DICT.search(key) or not key.startswith(("base_model.", PROMPT_KEY))]:
        raise InputError(
            f"{where}: this is a model's state dict, not an adapter: it holds {wrong[0]}. Save the adapter with PEFT, "
            "model.save_pretrained(DIR)"
        )


def is_bare(stored: Collection[str], prefix: str, family: Family, config: Config) -> bool:
    """Whether the adapter was trained on a bare encoder, whose names have no prefix."""
    inside = tuple({f"{prefix}{name.split('.')[0]}." for name in body_keys(family, config)})
    return any(key.startswith(inside) for key in stored)


def saved_words(
    stored: Mapping[str, np.ndarray], layout: Layout, prefix: str, folder: Path, base: Path
) -> dict[str, Tensor]:
    """Return {key: Tensor} of the word embeddings if the adapter holds them; PEFT saves them for a resized vocabulary.

    Raises: InputError for another number of embeddings than in the base.
    """
    name = next(name for name, path in layout.names.items() if path == WORDS)
    place, value = layout.tensor(prefix, name, WORDS), stored.get(prefix + name)
    if value is None:
        return {}
    words, known = (shape[0] if shape else 0 for shape in (value.shape, place.shape))
    if words != known:
        raise InputError(
            f"{folder}: the adapter was trained on a vocabulary of {words}, the base ({base}) has {known}: give the "
            f"base with the same tokens, saved after model.resize_token_embeddings({words})"
        )
    return {place.key: place}


def read_raw(folder: Path) -> dict[str, Any]:
    """Read adapter_config.json as a dict with a peft_type.

    Raises: InputError where the folder or the file is missing, or has no peft_type.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"the adapter {folder} {what}; expected a folder with {CONFIG} and {WEIGHTS}")
    if not (folder / CONFIG).is_file():
        advice = instead_of_adapter(folder) or f"expected an adapter of PEFT, with {CONFIG} and {WEIGHTS}"
        raise InputError(f"{folder} has no {CONFIG}; {advice}")
    check_not_pointer(folder / CONFIG)
    raw = read_json(folder / CONFIG)
    if not isinstance(raw.get("peft_type"), str):
        raise InputError(
            f"{folder / CONFIG} has no peft_type, so the kind of adapter is unknown: save it with PEFT again"
        )
    return raw


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """Read the weights, {PEFT's key: array}.

    Raises: InputError where there are none; for a pickle, with the command that converts it.
    """
    if (folder / WEIGHTS).exists():
        return read_tensors(folder / WEIGHTS)
    if (folder / PICKLE).exists():
        raise InputError(
            f"{folder} holds its weights only as pickle ({PICKLE}), which can run code and is never read; convert it, "
            f"in an environment with torch that you trust it in: {CONVERT}"
        )
    raise InputError(f"{folder} has no {WEIGHTS}: no weights to load")


def head_of(
    folder: Path, stored: Mapping[str, np.ndarray], base: Checkpoint, key: str
) -> tuple[str | None, Head | None, dict[str, Head]]:
    """Return (name, Head, {name: Head} of the adapter's own head); `key` is that of its last kernel.

    An adapter without a head uses the base's classifier, and its own heads are {}. A head that matches the head of the
    base with its name takes its place; a different head gets a name that no head of the base has.
    """
    if key not in stored:
        return base.primary, None if base.primary is None else base.heads.get(base.primary), {}
    name, head = recorded_head(folder) or foreign_head(stored[key], base)
    if name in base.heads and not alike(head, base.heads[name]):
        name = unused_head(None, "new", list(base.heads))
    return name, head, {name: head}


def recorded_head(folder: Path) -> tuple[str, Head] | None:
    """Return (name, Head) from our own HEADS_JSON, or None without it or without a primary head in it."""
    if not (folder / HEADS_JSON).is_file():
        return None
    heads, primary = read_record(read_json(folder / HEADS_JSON), folder / HEADS_JSON)
    if primary is None:
        return None
    check_name(primary)
    return primary, heads[primary]


def foreign_head(kernel: np.ndarray, base: Checkpoint) -> tuple[str, Head]:
    """Return (name, Head) of a last kernel [C, D] without HEADS_JSON: the base's classifier if that has C outputs, else
    a head with the labels that transformers would give it.
    """
    name, outputs = base.primary or ORIGINAL, kernel.shape[0] if kernel.ndim else 0
    if name in base.heads and width(base.heads[name]) == outputs:
        return name, base.heads[name]
    labels = tuple(f"LABEL_{i}" for i in range(outputs))
    return name, Head("regression", ()) if outputs == 1 else Head("classification", labels)


def to_theta(stored: Mapping[str, np.ndarray], places: Mapping[str, Tensor], folder: Path, base: Path) -> Params:
    """Return the trainable tree, float32 jax arrays, from PEFT's tensors; `places` is {key: Tensor} of all expected.

    Raises: InputError for tensors that are unknown, missing, of another shape or not floating point.
    """
    if unknown := sorted(set(stored) - set(places)):
        raise InputError(f"{folder / WEIGHTS} has tensors that the base {base} has no place for: {listed(unknown)}")
    if missing := sorted(set(places) - set(stored)):
        raise InputError(f"{folder / WEIGHTS} lacks tensors that its {CONFIG} promises: {listed(missing)}")
    tensors = {place.path: StoredTensor(key, stored[key], place.shape, place.ours) for key, place in places.items()}
    return to_tree(tensors, f"{folder / WEIGHTS} does not fit the base {base}")
