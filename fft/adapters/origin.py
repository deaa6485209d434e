"""Whether an adapter belongs to a base: by the hash or folder in its files, and by the tokens it was trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fft import models
from fft.core.errors import InputError
from fft.core.tree import flatten
from fft.models import Checkpoint
from fft.models.files.config import read_json
from fft.models.files.heads import HEADS_JSON
from fft.models.files.keys import listed
from fft.models.identity import body_sha256

BASE_HASH, BASE_NAME = "base_sha256", "base_model_name_or_path"
TOKENIZER = "tokenizer.json"
ROUNDING = 2.0**-7
"""the relative error of a bfloat16 number, by which copies of a base in two formats differ"""


def origin_record(base: Checkpoint) -> dict[str, str]:
    """Return what an adapter's record says of its base: the hash of its body, unless that was rounded when loaded."""
    return {BASE_HASH: body_sha256(base)} if base.model.computation.base_dtype == "float32" else {}


def check_origin(folder: Path, raw: Mapping[str, Any], base: Checkpoint) -> tuple[str, ...]:
    """Check that an adapter in a folder with the config `raw` was made for a base; return notes.

    fft's own record has the hash of the base; PEFT's config has its folder or its name on the hub. A folder that still
    exists is compared with the base, up to the rounding of another format; another name on the hub is a note, as the
    same weights have several.

    Raises: InputError for the adapter of another base.
    """
    record = read_json(folder / HEADS_JSON) if (folder / HEADS_JSON).is_file() else {}
    wanted, name = record.get(BASE_HASH), raw.get(BASE_NAME)
    if isinstance(wanted, str):
        if base.model.computation.base_dtype == "float32" and wanted != body_sha256(base):
            raise InputError(
                f"{folder}: the adapter was made for a base with other weights ({name}) than {base.folder}: give that "
                f"base, or delete {BASE_HASH} in {HEADS_JSON} to use it on this one all the same"
            )
        return ()
    if not isinstance(name, str) or not name:
        return ()
    other = Path(name)
    if (other / "config.json").is_file():
        if other.resolve() != base.folder.resolve() and (path := first_difference(other, base)):
            raise InputError(
                f"{folder}: {BASE_NAME} is {name}, which differs from {base.folder} in {path}: the adapter belongs to "
                f"another base; give that one, or empty {BASE_NAME} to use it on this one all the same"
            )
        return ()
    known = hub_name(base.folder)
    if known is None or known.lower() == name.lower():
        return ()
    return (f"{folder}: the adapter's file names the base {name}, and the base here is {known}",)


def hub_name(folder: Path) -> str | None:
    """Return OWNER/NAME of a folder in the hub's cache, else None."""
    part = next((part for part in folder.parts if part.startswith("models--")), None)
    return None if part is None else part.removeprefix("models--").replace("--", "/")


def first_difference(other: Path, base: Checkpoint) -> str | None:
    """Return the path of the first parameter in which the checkpoint in `other` is not the base; None if it is.

    A checkpoint that cannot be read is not compared.
    """
    try:
        named = models.load(other)
    except InputError:
        return None
    if named.model.family != base.model.family:
        return f"the family, {named.model.family}"
    ours = flatten(base.params)
    for path, leaf in flatten(named.params).items():
        if path.startswith(("heads/", "unembed/", "pooler/")) or path not in ours:
            continue
        value = np.asarray(ours[path], np.float32)
        if value.shape != leaf.shape or not np.allclose(value, np.asarray(leaf), rtol=ROUNDING, atol=1e-6):
            return path
    return None


def check_tokens(folder: Path, base: Checkpoint, trained: tuple[int, ...] = ()) -> None:
    """Check that the base's tokenizer has the tokens that an adapter was trained with.

    They are those that were added to the tokenizer in the adapter's folder, if there is one, and the ids `trained`,
    whose embeddings the adapter replaces.

    Raises: InputError that names the tokens.
    """
    if not (base.folder / TOKENIZER).is_file():
        return
    known, added = token_ids(base.folder / TOKENIZER), added_tokens(folder / TOKENIZER)
    if lacking := [text for text, number in added.items() if known.get(text) != number]:
        raise InputError(
            f"{folder}: the adapter was trained with tokens that the tokenizer of {base.folder} lacks: "
            f"{listed([repr(text) for text in lacking])}; copy the tokenizer's files from {folder} to the base"
        )
    numbers = set(known.values())
    if lacking := [str(number) for number in trained if number not in numbers]:
        raise InputError(
            f"{folder}: the adapter trains the embeddings of tokens that the tokenizer of {base.folder} lacks: "
            f"{listed(lacking)}; give a base with the tokenizer that the adapter was trained with"
        )


def token_ids(path: Path) -> dict[str, int]:
    """Return {token: id} of a tokenizer.json, without its vocabulary if that has no names."""
    vocab = read_json(path).get("model", {}).get("vocab", {})
    if isinstance(vocab, list):  # Unigram: pairs of a token and its score
        vocab = {pair[0]: number for number, pair in enumerate(vocab)}
    return {**vocab, **added_tokens(path)}


def added_tokens(path: Path) -> dict[str, int]:
    """Return {token: id} of the tokens that a tokenizer.json has beside its vocabulary; empty without the file."""
    content = read_json(path) if path.is_file() else {}
    return {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
