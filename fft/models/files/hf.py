"""Loading a Checkpoint from a Hugging Face folder, or from a source that is made one; safetensors only."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fft.core.errors import InputError
from fft.core.naming import UNEMBED
from fft.disk.sniff import check_not_pointer
from fft.models.files.config import read_config, read_json
from fft.models.files.folders import CONFIG, instead_of_checkpoint
from fft.models.files.heads import HEADS_JSON, HEADS_TENSORS, ORIGINAL, classifier_of, read_record, stored_length, width
from fft.models.files.keys import POOLER, expected_shapes, head_keys, listed, rename, to_params
from fft.models.files.source import find_folder
from fft.models.files.tensors import (
    WEIGHTS,
    dtype_of,
    read_tensors,
    read_weights,
    refuse_not_finite,
    stored_names,
    tensor_names,
)
from fft.models.files.unembed import PREFIX, WORDS, language_leaves, language_shapes, refuse_missing
from fft.models.layers import Config
from fft.models.model import Checkpoint, Family, Head, build

WRAPPERS = ("_orig_mod.", "module.", "model.")
"""prefixes that torch.compile, DataParallel and user-defined modules add to every name"""
PARTS = ("text_config", "vision_config", "audio_config")
"""fields of models that join a language model with others"""


def load(
    source: str | Path, families: Mapping[str, Family], language: bool = False, pooled: bool = False
) -> Checkpoint:
    """Return the Checkpoint in a folder, or of a source as in `find_folder`; `families` is {model_type: Family}.

    Weights become float32 jax arrays; raw_config['dtype'] is the dtype in which they were stored. Heads that fft saved
    get their names back; any other classifier becomes the head 'original'. The language head is read only if
    `language`; a model with that head alone needs no pooler, unless `pooled` states are to be read.
    Raises: InputError for a checkpoint that does not match its config.json exactly, MachineError without network.
    """
    folder, raw, family = open_checkpoint(source, families)
    config, notes = read_config(raw, family, folder / CONFIG)
    tensors, prefix_notes = without_wrapper(read_weights(folder), folder, family)
    apart = family.split(tensors)
    heads, primary, extra = read_heads(folder, raw, family, apart)
    names = rename(apart, family, config, primary or ORIGINAL, folder)
    refuse_broken_promise(folder, raw, family, apart)
    leaves = {path: (key, apart[key]) for key, path in names.items()}
    leaves |= {path: (path, value) for path, value in extra.items()}
    own = {path: leaves.pop(path) for path in extra if path.startswith(PREFIX)}
    shapes = expected_shapes(family, config, {name: width(head) for name, head in heads.items()})
    if language:
        others = {key: value for key, value in tensors.items() if key not in names}
        leaves |= language_leaves(others, own, family, config, leaves.get(WORDS), folder)
        shapes |= language_shapes(family, config)
        if not heads and not pooled and not any(path.startswith(POOLER) for path in leaves):
            shapes = {path: shape for path, shape in shapes.items() if not path.startswith(POOLER)}
    strange = sorted(set(leaves) - set(shapes))
    if strange:
        raise InputError(f"{folder / HEADS_TENSORS} holds parameters of no known head: {listed(strange)}")
    refuse_not_finite({key: value for key, value in leaves.values()}, folder)
    raw = {**raw, "dtype": dtype_of(value for _, value in leaves.values())}
    raw.pop("torch_dtype", None)
    params = to_params(leaves, shapes, folder)
    notes += prefix_notes
    length = stored_length(folder)
    return Checkpoint(build(family, config), params, heads, primary, folder, raw, notes, length, language)


def load_causal(source: str | Path, families: Mapping[str, Family]) -> Checkpoint:
    """Return the causal language model in a folder, or of a source as in `find_folder`, with its language head.

    Raises: InputError for a model that does not predict the next token; as `load_language`.
    """
    folder, _, family = open_checkpoint(source, families)
    if family.language.masked:
        raise InputError(
            f"{folder}: a {family.name} model predicts masked tokens, not the next one, and cannot write texts: give a "
            "decoder with a language head"
        )
    return load_language(folder, families)


def load_language(source: str | Path, families: Mapping[str, Family], pooled: bool = False) -> Checkpoint:
    """Return the causal or masked language model in a folder, or of a source as in `find_folder`, with its head.

    `pooled` is as in `load`.

    Raises: InputError for a decoder that is a classifier, whose language head is not its own any more; as `load`.
    """
    folder, _, _ = open_checkpoint(source, families)
    checkpoint = load(folder, families, language=True, pooled=pooled)
    if checkpoint.heads and UNEMBED not in checkpoint.params:
        raise InputError(
            f"{folder} is a classifier (its heads are: {', '.join(checkpoint.heads)}) without a language head of its "
            "own, and cannot write texts: give a decoder that was saved with its language head"
        )
    return checkpoint


def find_masked(source: str | Path, families: Mapping[str, Family]) -> Path:
    """Return the folder of a masked language model, a source as in `find_folder`, without reading its weights.

    Raises: InputError if it is not a checkpoint or has no masked-language head; as `open_checkpoint`.
    """
    folder, raw, family = open_checkpoint(source, families)
    if not family.language.masked:
        raise InputError(f"{folder}: a {family.name} model predicts the next token and has no masked-language head")
    config, _ = read_config(raw, family, folder / CONFIG)
    names = read_names(folder, family)
    classifier = head_keys(family, config, ORIGINAL) if stores_head(names, family) else {}
    own = stored_names(folder / HEADS_TENSORS) if (folder / HEADS_TENSORS).exists() else []
    refuse_missing([*(set(names) - set(classifier)), *own], family, config, folder)
    return folder


def has_head(source: str | Path, families: Mapping[str, Family]) -> bool:
    """Whether the checkpoint has a classifier or another head; reads the names of its tensors only.

    Raises: InputError or MachineError as `load`, as far as these files show the error.
    """
    folder, _, family = open_checkpoint(source, families)
    if (folder / HEADS_JSON).exists():
        return bool(read_record(read_json(folder / HEADS_JSON), folder / HEADS_JSON)[0])
    return stores_head(read_names(folder, family), family)


def predicts_next(source: str | Path, families: Mapping[str, Family]) -> bool:
    """Whether config.json declares the family's causal language model; reads no weights.

    Raises: as `open_checkpoint`.
    """
    _, raw, family = open_checkpoint(source, families)
    return not family.language.masked and family.language.architecture in (raw.get("architectures") or ())


def open_checkpoint(source: str | Path, families: Mapping[str, Family]) -> tuple[Path, dict[str, Any], Family]:
    """Return (folder, config.json as a dict, Family) of a model, after fetching or converting it.

    Raises: as `find_folder`, `read_raw` and `find_family`.
    """
    folder = find_folder(source, families)
    raw = read_raw(folder)
    return folder, raw, find_family(raw, families, folder / CONFIG)


def read_family_config(source: str | Path, families: Mapping[str, Family]) -> Config:
    """Return the config of a model, a source as in `find_folder`, without reading its weights.

    Raises: as `open_checkpoint`, and `read_config`.
    """
    folder, raw, family = open_checkpoint(source, families)
    return read_config(raw, family, folder / CONFIG)[0]


def read_raw(folder: Path) -> dict[str, Any]:
    """Return a folder's config.json as a dict. Raises: InputError if it is missing or has no model_type."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"the model {folder} {what}; expected a Hugging Face folder, or hf:OWNER/NAME")
    path = folder / CONFIG
    if not path.is_file():
        expected = f"{folder} has no {CONFIG}; expected a Hugging Face folder with {CONFIG} and {WEIGHTS}"
        raise InputError(instead_of_checkpoint(folder) or expected)
    check_not_pointer(path)
    raw = read_json(path)
    if not isinstance(raw.get("model_type"), str):
        raise InputError(f'{path} has no model_type, so its family is unknown; add one, such as "bert"')
    return raw


def find_family(raw: dict[str, Any], families: Mapping[str, Family], where: Path) -> Family:
    """Return the Family of config.json's model_type. Raises: InputError that lists the supported ones."""
    name = raw["model_type"]
    if name in families:
        return families[name]
    problem = f"{where}: model_type {name!r} is not supported"
    if parts := sorted(set(raw) & set(PARTS)):
        inner = raw["text_config"].get("model_type") if isinstance(raw.get("text_config"), dict) else None
        whose = f" of model_type {inner!r}" if isinstance(inner, str) else ""
        problem += (
            f", as it joins a language model with others ({', '.join(parts)}); save the language model{whose} as a "
            "checkpoint of its own"
        )
    elif near := difflib.get_close_matches(name, families, n=1):
        problem += f"; did you mean {near[0]!r}?"
    raise InputError(f"{problem}; supported are {', '.join(sorted(families))}")


def read_names(folder: Path, family: Family) -> list[str]:
    """Return the names of a folder's tensors without a wrapper's prefix, without reading the tensors."""
    names = tensor_names(folder)
    return [name.removeprefix(wrapper_of(names, family)) for name in names]


def without_wrapper(
    tensors: dict[str, np.ndarray], folder: Path, family: Family
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return ({name: array}, notes) without the prefix, if any, that a wrapper added to every stored name."""
    prefix = wrapper_of(tensors, family)
    if not prefix:
        return tensors, ()
    note = f"{folder}: all {len(tensors)} tensors are stored under names that begin with {prefix!r}; read without it"
    return {name.removeprefix(prefix): value for name, value in tensors.items()}, (note,)


def wrapper_of(names: Collection[str], family: Family) -> str:
    """Return the prefix of one or several WRAPPERS that all names share, but the family's own; '' if there is none."""
    prefix, wrappers = "", [wrap for wrap in WRAPPERS if wrap != f"{family.prefix}."]
    while names and (more := [wrap for wrap in wrappers if all(name.startswith(prefix + wrap) for name in names)]):
        prefix += more[0]
    return prefix


def stores_head(names: Iterable[str], family: Family) -> bool:
    """Whether some of the tensor names belong to the last layer of Hugging Face's sequence head.

    Other layers of it may be in a model without one: ModernBERT's are those of its masked-language head.
    """
    return any(name.startswith(f"{family.head_rows[-1][0]}.") for name in names)


def read_heads(
    folder: Path, raw: dict[str, Any], family: Family, tensors: dict[str, np.ndarray]
) -> tuple[dict[str, Head], str | None, dict[str, np.ndarray]]:
    """Return ({name: Head}, primary name, {our path: array} of the heads that Hugging Face does not store).

    Raises: InputError if fft_heads.json, config.json and the tensors contradict each other.
    """
    classifier = classifier_of(raw, family, folder / CONFIG) if stores_head(tensors, family) else None
    if not (folder / HEADS_JSON).exists():
        return ({}, None, {}) if classifier is None else ({ORIGINAL: classifier}, ORIGINAL, {})
    heads, primary = read_record(read_json(folder / HEADS_JSON), folder / HEADS_JSON)
    recorded = None if primary is None else heads[primary]
    if recorded != classifier:
        raise InputError(
            f"{folder / HEADS_JSON} says the stored classifier is {recorded}, config.json says {classifier}: "
            f"the folder was changed by another program; delete {HEADS_JSON} and {HEADS_TENSORS} to load it anyway"
        )
    extra = read_tensors(folder / HEADS_TENSORS) if (folder / HEADS_TENSORS).exists() or len(heads) > 1 else {}
    if any(path.startswith(f"heads/{primary}/") for path in extra):
        raise InputError(f"{folder / HEADS_TENSORS} holds the head {primary!r}, which is the stored classifier already")
    return heads, primary, extra


def refuse_broken_promise(folder: Path, raw: dict[str, Any], family: Family, names: Iterable[str]) -> None:
    """Check that the tensor `names` include a classifier if config.json declares one. Raises: InputError if not."""
    declared = any(str(name).endswith("ForSequenceClassification") for name in raw.get("architectures") or ())
    if declared and not stores_head(names, family):
        raise InputError(
            f"{folder}: config.json declares a classifier, but there is no {family.head_rows[-1][0]}.weight: get the "
            "complete checkpoint"
        )
