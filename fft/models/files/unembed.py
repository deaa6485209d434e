"""The language head in files: the names of its tensors, and its leaves, which are those under `unembed/` in our tree.

Where config.json ties the last kernel to the word embeddings, transformers stores no kernel, and in BERT and RoBERTa
the last bias under a name of its own. Where it does not, the bias is that of the last layer; transformers 5 stores one
without effect under the other name too, and transformers 4 stored the bias under that name alone.
"""

from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.errors import InputError
from fft.core.naming import UNEMBED
from fft.core.tree import flatten
from fft.models.files.keys import listed, modern, rows
from fft.models.language import LanguageReadout
from fft.models.layers import Config
from fft.models.model import Family

PREFIX = f"{UNEMBED}/"
"""of the paths of the head's own leaves"""
WORDS, KERNEL, BIAS = "embed/word/embedding", f"{PREFIX}kernel", f"{PREFIX}bias"

Stored = tuple[str, np.ndarray]
"""a tensor and its name in the file"""


@lru_cache
def language_shapes(family: Family, config: Config) -> dict[str, tuple[int, ...]]:
    """Return {our path: shape} of the language head's own leaves; empty if it is the word embeddings."""
    sizes, module = config.shape, LanguageReadout(family.language.module(config))
    states, words = (jax.ShapeDtypeStruct((size, sizes.dim), jnp.float32) for size in (1, sizes.vocab))
    tree = jax.eval_shape(module.init, jax.random.key(0), states, words).get("params", {})
    return {path: leaf.shape for path, leaf in flatten(tree).items()}


def written_keys(family: Family, config: Config) -> dict[str, str]:
    """Return {hf key: our path} under which the language head is saved, as transformers stores it."""
    tied = config.shape.tied
    names = _names(family, config)
    return {key: path for path in language_shapes(family, config) for key in (names[path][:1] if tied else names[path])}


def language_leaves(
    tensors: Mapping[str, np.ndarray],
    own: Mapping[str, Stored],
    family: Family,
    config: Config,
    embeddings: Stored | None,
    folder: Path,
) -> dict[str, Stored]:
    """Return {our path: (stored name, array)} of the language head; empty if it is the word embeddings.

    `own` are the leaves that fft stored under our paths; the others are read from the `tensors` of other modules than
    body and classifier.
    Raises: InputError for a folder without the head, for two spellings of a leaf that differ, and for a stored kernel
    that differs from the word `embeddings` where config.json ties the two.
    """
    refuse_missing([*tensors, *own], family, config, folder)
    names, tied = _names(family, config), config.shape.tied
    found: dict[str, list[Stored]] = {path: [stored] for path, stored in own.items()}
    for path in names.keys() - own.keys():
        found[path] = [(key, tensors[key]) for name in names[path] for key in tensors if modern(key) == name]
    if tied and embeddings and found[KERNEL] and not np.array_equal(found[KERNEL][0][1], embeddings[1]):
        raise InputError(
            f"{folder}: {found[KERNEL][0][0]} differs from the word embeddings, though tie_word_embeddings is true; "
            "delete the wrong one, or set tie_word_embeddings to false"
        )
    leaves = {path: found[path] for path in language_shapes(family, config)}
    for path, stored in leaves.items():
        if (tied or path != BIAS) and any(not np.array_equal(value, stored[0][1]) for _, value in stored[1:]):
            raise InputError(f"{folder}: {' and '.join(key for key, _ in stored)} differ, but are one parameter")
    return {path: stored[0] for path, stored in leaves.items()}


def refuse_missing(stored: Collection[str], family: Family, config: Config, folder: Path) -> None:
    """Check that the `stored` names, ours or Hugging Face's, include all of the language head.

    Raises: InputError that names what is missing.
    """
    names, shapes, have = _names(family, config), language_shapes(family, config), {modern(name) for name in stored}
    missing = [path for path in names if path in shapes and not have & {path, *names[path]}]
    if not missing:
        return
    untied = ", and tie_word_embeddings is false, so that the word embeddings do not replace it"
    raise InputError(
        f"{folder} has no {'masked-' * family.language.masked}language head: there is no "
        f"{listed([names[path][0] for path in missing])}{untied * (KERNEL in missing)}"
    )


def _names(family: Family, config: Config) -> dict[str, tuple[str, ...]]:
    """Return {our path: its names in files}; the first one that is stored counts."""
    head = family.language
    names: dict[str, tuple[str, ...]] = {ours: (theirs,) for theirs, ours in rows(head.rows, 0)}
    if head.bias is not None:
        own = names[BIAS]
        names[BIAS] = (head.bias, *own) if config.shape.tied else (*own, head.bias)
    return names
