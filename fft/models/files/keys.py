"""The mapping between Hugging Face's tensor names and our parameter paths: one strict key table per family.

A row of a table has Hugging Face's module name, ours, and the module's kind, which gives its leaves. Dense weights are
transposed: torch stores them as [out, in], our kernels are [in, out].
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.errors import InputError
from fft.core.tree import Params, flatten, unflatten
from fft.models.layers import Config, Readout
from fft.models.model import Family

LEAVES = {
    "embed": (("weight", "embedding"),),
    "dense": (("weight", "kernel"), ("bias", "bias")),
    "norm": (("weight", "scale"), ("bias", "bias")),
}
OLD_NORM = {
    ".gamma": ".weight",
    ".beta": ".bias",
}  # checkpoints converted from TensorFlow spell norms like this
SHOWN = 10
POOLER = "pooler/"
"""the parameters that a language head does not read"""


def rows(table: Iterable[tuple[str, str, str]], depth: int) -> Iterator[tuple[str, str]]:
    """Yield (hf key, our path) for every tensor of a key table, where {i} stands for each layer's number."""
    for theirs, ours, kind in table:
        for i in range(depth) if "{i}" in theirs else (0,):
            for their_leaf, our_leaf in LEAVES[kind]:
                yield (
                    f"{theirs}.{their_leaf}".replace("{i}", str(i)),
                    f"{ours}/{our_leaf}".replace("{i}", str(i)),
                )


def body_keys(family: Family, config: Config) -> dict[str, str]:
    """Return {hf key without prefix: our path} for all parameters but the heads."""
    has = body_shapes(family, config)
    return {theirs: ours for theirs, ours in rows(family.body, config.shape.depth) if ours in has}


def head_keys(family: Family, config: Config, head: str) -> dict[str, str]:
    """Return {hf key: our path} for Hugging Face's sequence head, which is heads/{head} in our tree."""
    has = head_shapes(family, config, ((head, 1),))
    paths = {theirs: f"heads/{head}/{ours}" for theirs, ours in rows(family.head_rows, 0)}
    return {theirs: path for theirs, path in paths.items() if path in has}


def expected_shapes(family: Family, config: Config, classes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return {our path: shape} for the complete tree without allocating it; `classes` is {head name: C}."""
    return body_shapes(family, config) | head_shapes(family, config, tuple(classes.items()))


@lru_cache
def head_shapes(family: Family, config: Config, classes: tuple[tuple[str, int], ...]) -> dict[str, tuple[int, ...]]:
    """Return {our path: shape} for the heads (name, C)."""
    heads = Readout(family.head(config), classes)
    pooled = jax.ShapeDtypeStruct((1, config.shape.dim), jnp.float32)
    tree = jax.eval_shape(heads.init, jax.random.key(0), pooled, None).get("params", {})
    return {path: leaf.shape for path, leaf in flatten(tree).items()}


@lru_cache
def body_shapes(family: Family, config: Config) -> dict[str, tuple[int, ...]]:
    """Return {our path: shape} for all parameters but the heads."""
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    tree = jax.eval_shape(family.network(config.shape).init, jax.random.key(0), ids, ids, ids, ids, None, {})["params"]
    return {path: leaf.shape for path, leaf in flatten(tree).items()}


def rename(names: Iterable[str], family: Family, config: Config, head: str, where: Path) -> dict[str, str]:
    """Return {stored name: our path} for the tensor names of a checkpoint.

    The body may have the family's prefix or not, norms may be weight/bias or gamma/beta, and keys that the family
    ignores are skipped. Raises: InputError naming any other keys, and two keys for one path.
    """
    body, heads = body_keys(family, config), head_keys(family, config, head)
    taken: dict[str, str] = {}
    strange, twice = [], []
    for name in names:
        short = name.removeprefix(f"{family.prefix}.")
        path = heads.get(name) or body.get(short) or body.get(modern(short))
        if path is None:
            if not any(re.fullmatch(pattern, short) for pattern in family.ignored):
                strange.append(name)
        elif path in taken.values():
            twice.append(name)
        else:
            taken[name] = path
    if strange:
        raise InputError(f"{where} has tensors a {family.name} model has no place for: {listed(strange)}")
    if twice:
        raise InputError(f"{where} stores these parameters twice, under two spellings: {listed(twice)}")
    return taken


def modern(name: str) -> str:
    """Return the name with the old norm leaves gamma and beta renamed to weight and bias."""
    for old, new in OLD_NORM.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def to_params(
    tensors: Mapping[str, tuple[str, np.ndarray]], shapes: Mapping[str, tuple[int, ...]], where: Path
) -> Params:
    """Return the parameter tree of float32 jax arrays from {our path: (hf key, array)}.

    Raises: InputError for missing tensors, wrong shapes, and tensors that are not floating point.
    """
    check_missing(sorted(set(shapes) - set(tensors)), where)

    def tensor(path: str, key: str, value: np.ndarray) -> StoredTensor:
        is_kernel = path.endswith("/kernel")
        return StoredTensor(
            key, value, shapes[path][::-1] if is_kernel else shapes[path], np.transpose if is_kernel else None
        )

    stored = {path: tensor(path, key, value) for path, (key, value) in tensors.items()}
    return to_tree(stored, f"{where} does not fit its config.json")


class StoredTensor(NamedTuple):
    """A tensor of a file with its key, the shape that it must have, and the map to the layout of our leaf."""

    key: str
    value: np.ndarray
    shape: tuple[int, ...]
    ours: Callable[[np.ndarray], np.ndarray] | None = None


def to_tree(stored: Mapping[str, StoredTensor], problem: str) -> Params:
    """Return the tree of float32 jax arrays from tensors by our paths.

    Raises: InputError, beginning with `problem`, for tensors of another shape or not floating point.
    """
    wrong, leaves = [], {}
    for path, (key, value, shape, ours) in stored.items():
        if value.dtype.name not in ("float32", "float16", "bfloat16"):
            wrong.append(f"{key} is {value.dtype.name}, expected float32, float16 or bfloat16")
        elif value.shape != shape:
            wrong.append(f"{key} is {list(value.shape)}, expected {list(shape)}")
        else:
            leaves[path] = jnp.asarray(np.ascontiguousarray(ours(value) if ours else value, dtype=np.float32))
    if wrong:
        raise InputError(f"{problem}: {listed(wrong, '; ')}")
    return unflatten(leaves)


def check_missing(missing: Sequence[str], where: Path) -> None:
    """Raise InputError if parameters are missing; for a missing pooler it says how to add one."""
    if not missing:
        return
    message = f"{where} lacks tensors for these parameters: {listed(missing)}"
    if all(path.startswith(POOLER) for path in missing):
        message += (
            "; it was saved from a model without a pooler (such as a masked language model), which the sequence heads"
            ' need. Add a new one: python -c "from transformers import AutoModelForSequenceClassification as M;'
            " M.from_pretrained('OLD').base_model.save_pretrained('NEW')\""
        )
    raise InputError(message)


def from_params(
    leaves: Mapping[str, jax.Array],
    family: Family,
    config: Config,
    primary: str | None,
    dtype: np.dtype,
    language: Mapping[str, str] | None = None,
) -> dict[str, np.ndarray]:
    """Return {hf key: array} for the body and the primary head, or the language head {hf key: our path}.

    Without either it is only the body, without prefix; with the language head the body may lack a pooler. `leaves` is
    the flattened tree. The arrays are as Hugging Face stores them, in `dtype`; see `stored`.
    """
    prefix = "" if primary is None and language is None else f"{family.prefix}."
    body = body_keys(family, config)
    if language is not None:
        body = {key: path for key, path in body.items() if path in leaves or not path.startswith(POOLER)}
    names = {f"{prefix}{key}": path for key, path in body.items()} | dict(language or {})
    if primary is not None:
        names.update(head_keys(family, config, primary))
    return {key: stored(leaves[path], path, dtype) for key, path in names.items()}


def stored(leaf: jax.Array | np.ndarray, path: str, dtype: np.dtype) -> np.ndarray:
    """Return a leaf as Hugging Face stores it: kernels as [out, in], contiguous, in `dtype`."""
    value = np.asarray(leaf)
    return np.ascontiguousarray(value.T if path.endswith("/kernel") else value, dtype=dtype)


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """Join the first names, and say how many more there are."""
    more = len(names) - SHOWN
    return separator.join(names[:SHOWN]) + (f" and {more} more ({len(names)} in all)" if more > 0 else "")
