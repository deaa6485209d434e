"""Read adapters from PEFT folders, and check that tensors and base match exactly."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fft.adapters.adapter import Adapter
from fft.adapters.config import MERGE, Config, read_config
from fft.adapters.layout import Format, Formats, Layout, Tensor, layout_of
from fft.adapters.origin import check_origin, check_tokens
from fft.adapters.prompt import KEY as PROMPT_KEY
from fft.adapters.whole import STATE_DICT, embedding_names, plainly_named, token_numbers, token_rows, whole_names
from fft.adapters.writing import CONFIG, WEIGHTS
from fft.core.errors import InputError
from fft.core.tree import flatten, unflatten
from fft.disk.local import local
from fft.disk.sniff import check_not_pointer
from fft.methods import from_json
from fft.methods.lora import B
from fft.models import FAMILIES, Checkpoint, Head
from fft.models.files.config import read_json
from fft.models.files.folders import instead_of_adapter
from fft.models.files.heads import HEADS_JSON, ORIGINAL, alike, check_name, read_record, stored_length, width
from fft.models.files.keys import StoredTensor, body_keys, listed, to_tree
from fft.models.files.tensors import read_tensors, refuse_not_finite
from fft.models.files.unembed import KERNEL, PREFIX, WORDS
from fft.models.heads import unused_head
from fft.models.layers import Config as ModelConfig
from fft.models.model import Family

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
    form = format_named(raw["peft_type"], base.model.family, formats, folder)
    config, notes = read_config(form.config, raw, str(folder / CONFIG))
    method = from_json([form.method(config)], str(folder / CONFIG))
    family = FAMILIES[base.model.family]
    if config.task_type == "CAUSAL_LM" and family.language.masked:
        raise InputError(f"{folder / CONFIG}: task_type is CAUSAL_LM, but a {family.name} model predicts no next token")
    stored, left_out = without_ignored(read_weights(folder), form.prefix, family, base.language, folder)
    if base.model.config.shape.tied and getattr(config, "ensure_weight_tying", False):
        stored = without_tied(stored, form.prefix, family)
    stored = plainly_named(stored, getattr(config, "bias", "none") != "none")
    refuse_no_adapter(stored, folder)
    name, head, heads = head_of(folder, stored, base, f"{form.prefix}{family.head_rows[-1][0]}.weight")
    bare = is_bare(stored, form.prefix, family, base.model.config)
    layout = layout_of(base, family, name, 0 if head is None else width(head), bare)
    refuse_not_finite(stored, folder)
    of_base = check_origin(folder, raw, base)  # before the tensors, which say less of an adapter of another base
    theta = to_theta(stored, form, config, layout, base, folder)
    unties = trains_ends_apart(theta, config, base)
    if base.model.config.shape.tied and not unties:
        theta = {path: leaf for path, leaf in theta.items() if not path.startswith(PREFIX)}
    if unties and token_numbers(config) and WORDS in theta:  # the head has the same rows, and LoRA beside them
        theta.setdefault(KERNEL, np.transpose(theta[WORDS]))
    check_tokens(folder, base, token_numbers(config))
    notes += (*left_out, *of_base)
    length, primary = stored_length(folder), name if heads else None
    return Adapter(method, unflatten(theta), heads, primary, notes, length, unties)


def format_named(peft_type: str, family: str, formats: Formats, folder: Path) -> Format[Any, Any]:
    """Return the Format of a peft_type. Raises: InputError for one that is not supported, or not on this family."""
    if peft_type not in formats:
        known = ", ".join(formats)
        raise InputError(
            f"{folder}: peft_type {peft_type!r} is not supported; supported are {known}. To use it all the same, "
            f"{MERGE}"
        )
    form = formats[peft_type]
    if family in form.without:
        raise InputError(
            f"{folder}: PEFT computes no {peft_type} on a {family} model: give the base that the adapter was trained on"
        )
    return form


def without_ignored(
    stored: dict[str, np.ndarray], prefix: str, family: Family, language: bool, folder: Path
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the tensors without those of modules that the family ignores in checkpoints too, and a note on them.

    `language`: those of the language head are not ignored.
    """
    head = [f"{name}." for name, _, _ in family.language.rows] if language else []
    ignored = [re.compile(pattern) for pattern in family.ignored]
    short = {key: key.removeprefix(prefix).removeprefix(f"{family.prefix}.") for key in stored}
    dropped = [
        key
        for key in stored
        if key.startswith(prefix)
        and not short[key].startswith(tuple(head))
        and any(pattern.fullmatch(short[key]) for pattern in ignored)
    ]
    if not dropped:
        return stored, ()
    note = f"{folder}: a {family.name} classifier has no modules for {listed(dropped)}; they are left out"
    return {key: value for key, value in stored.items() if key not in dropped}, (note,)


def without_tied(stored: dict[str, np.ndarray], prefix: str, family: Family) -> dict[str, np.ndarray]:
    """Return the tensors without the LoRA matrices of a language head that PEFT ties to those of the embeddings."""
    heads = tuple(f"{prefix}{name}.{kind}" for name, _, _ in family.language.rows for kind in ("lora_", "base_layer."))
    return {key: value for key, value in stored.items() if not key.startswith(heads)}


def refuse_no_adapter(stored: Collection[str], folder: Path) -> None:
    """Refuse a model's state dict in place of an adapter. Raises: InputError that names a tensor."""
    if wrong := [key for key in stored if STATE_DICT.search(key) or not key.startswith(("base_model.", PROMPT_KEY))]:
        raise InputError(
            f"{folder / WEIGHTS}: this is a model's state dict, not an adapter: it holds {wrong[0]}. Save the adapter "
            "with PEFT, model.save_pretrained(DIR)"
        )


def is_bare(stored: Collection[str], prefix: str, family: Family, config: ModelConfig) -> bool:
    """Whether the adapter was trained on a bare encoder, whose names have no prefix."""
    inside = tuple({f"{prefix}{name.split('.')[0]}." for name in body_keys(family, config)})
    return any(key.startswith(inside) for key in stored)


def refuse_vocabulary(stored: Mapping[str, np.ndarray], layout: Layout, prefix: str, folder: Path, base: Path) -> None:
    """Refuse word embeddings, which PEFT saves for a resized vocabulary, of another number than the base's.

    Raises: InputError with both numbers.
    """
    for name in embedding_names(layout):
        value, path = stored.get(prefix + name), layout.names[name]
        known = layout.shapes[path][0 if path == WORDS else 1]
        if value is not None and value.ndim and len(value) != known:
            raise InputError(
                f"{folder}: the adapter was trained on a vocabulary of {len(value)}, the base ({base}) has {known}: "
                f"give the base with the same tokens, saved after model.resize_token_embeddings({len(value)})"
            )


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


def to_theta(
    stored: Mapping[str, np.ndarray],
    form: Format[Any, Any],
    config: Config,
    layout: Layout,
    base: Checkpoint,
    folder: Path,
) -> dict[str, Any]:
    """Return {our path: float32 jax array} of all leaves in an adapter's tensors.

    Raises: InputError for tensors that are unknown, missing, of another shape or not floating point.
    """
    where, prefix = folder / WEIGHTS, form.prefix
    refuse_vocabulary(stored, layout, prefix, folder, base.folder)
    own = form.tensors(config, layout)
    leaves = {path: np.asarray(leaf) for path, leaf in flatten(base.params).items() if path in (WORDS, KERNEL)}
    own += token_rows(config, layout, prefix, leaves, folder / CONFIG)
    keys = {tensor.key: tensor for tensor in own}
    rest = {key.removeprefix(prefix): value for key, value in stored.items() if key not in keys}
    apart = layout.family.split(rest)
    targets = [key.removeprefix(prefix).rpartition(".lora_")[0] for key in keys]
    expected = whole_names(config, layout, targets)
    known = {*expected, *embedding_names(layout)}
    lacking = {*(key for key in keys if key not in stored), *(prefix + name for name in expected if name not in apart)}
    missing = f"lacks tensors that its {CONFIG} promises: {listed(sorted(lacking))}"
    if unknown := sorted(prefix + name for name in set(apart) - known):
        problem = f"{where} has tensors that the base {base.folder} has no place for: {listed(unknown)}"
        raise InputError(f"{problem}; and it {missing}" if lacking else problem)
    if lacking:
        raise InputError(f"{where} {missing}")
    problem = f"{where} does not fit the base {base.folder}"
    theta = flatten(to_tree(placed(own, stored), problem))
    full = {name: StoredTensor(prefix + name, value, *_own(layout, name)) for name, value in apart.items()}
    return {**flatten(to_tree({layout.names[name]: tensor for name, tensor in full.items()}, problem)), **theta}


def placed(tensors: list[Tensor], stored: Mapping[str, np.ndarray]) -> dict[str, StoredTensor]:
    """Return {our path: StoredTensor} of an adapter's own tensors."""
    return {
        path: StoredTensor(tensor.key, stored[tensor.key], tensor.shape, ours)
        for tensor in tensors
        for path, ours in tensor.leaves.items()
    }


def _own(layout: Layout, name: str):
    """Return (stored shape, the map to our leaf) of a tensor that is stored in full."""
    shape, is_kernel = layout.shapes[layout.names[name]], layout.names[name].endswith("/kernel")
    return shape[::-1] if is_kernel else shape, np.transpose if is_kernel else None


def trains_ends_apart(theta: dict[str, Any], config: Config, base: Checkpoint) -> bool:
    """Whether an adapter's word embeddings and language head differ, though config.json of the base ties them.

    PEFT trains a copy, or beside the tied weight: the other one keeps the base's. With ensure_weight_tying it ties them
    too, and with trainable_token_indices unless the head is a target itself.
    """
    if not (base.language and base.model.config.shape.tied) or getattr(config, "ensure_weight_tying", False):
        return False
    ends = [path for path in theta if path.rpartition("/")[0] in ("embed/word", "unembed")]
    targeted = any(path.startswith(PREFIX) and path.endswith(B) for path in ends)
    if not ends or (getattr(config, "trainable_token_indices", None) and not targeted):
        return False
    both = {WORDS, KERNEL} == set(ends)
    return not (both and np.array_equal(np.asarray(theta[WORDS]).T, np.asarray(theta[KERNEL])))
