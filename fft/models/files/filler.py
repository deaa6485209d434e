"""Masked language models, loaded to predict masked tokens.

Their head is a dense layer, an activation, a norm, and the word embeddings as the last kernel, with a separate bias.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.batch import Text
from fft.core.errors import InputError
from fft.core.tree import Params
from fft.models.files import hf
from fft.models.files.config import read_config
from fft.models.files.folders import CONFIG
from fft.models.files.heads import ORIGINAL
from fft.models.files.keys import expected_shapes, listed, modern, rename, to_params
from fft.models.files.tensors import read_weights
from fft.models.layers import ACTIVATIONS, Config
from fft.models.model import Family, Filling, Model, build

OUTSIDE = ("heads/", "pooler/")  # parameters that predictions of masked tokens do not depend on


class Filler(NamedTuple):
    """A masked language model: its folder, Model and parameters, those of its head in the subtree "filling".

    `notes` are remarks about its files for the user.
    """

    folder: Path
    model: Model
    params: Params
    activation: str
    epsilon: float
    notes: tuple[str, ...] = ()

    def logits(self, params: Params, batch: Text, places: jax.Array) -> jax.Array:
        """Return the logits [B, K, V] at `places` int32 [B, K] of texts int32 [B, T], without dropout.

        `params` are the filler's own, passed as an argument so that a jitted program does not embed them.
        """
        head = params["filling"]
        body = {name: subtree for name, subtree in params.items() if name != "filling"}
        states = self.model.states(body, batch, read=("tokens",))
        assert states.tokens is not None  # requested by `read`
        x = jnp.take_along_axis(states.tokens, places[..., None], axis=1)
        x = ACTIVATIONS[self.activation](x @ head["dense"]["kernel"] + head["dense"].get("bias", 0.0))
        centred = x - x.mean(-1, keepdims=True)
        x = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        x = x * head["norm"]["scale"] + head["norm"].get("bias", 0.0)
        return x @ params["embed"]["word"]["embedding"].T + head.get("bias", 0.0)


def find(source: str | Path, families: Mapping[str, Family]) -> Path:
    """Return the folder of a masked language model, a local one or that of `hf:NAME`, without reading its weights.

    Raises: InputError if it is not a checkpoint or has no masked-language head; as `hf.open_checkpoint`.
    """
    folder, raw, family = hf.open_checkpoint(source, families)
    if family.filling is None:
        raise InputError(f"{folder}: a {family.name} model predicts the next token and has no masked-language head")
    config, _ = read_config(raw, family, folder / CONFIG)
    stored = _modern(hf.read_names(folder, family))
    missing = [names[0] for names in _leaves(family.filling, config).values() if not set(names) & stored]
    if missing:
        raise InputError(f"{folder} has no masked-language head: there is no {listed(missing)}")
    if not raw.get("tie_word_embeddings", True):
        raise InputError(f"{folder}: tie_word_embeddings is false; give a model whose head ends in the word embeddings")
    return folder


def load(source: str | Path, families: Mapping[str, Family]) -> Filler:
    """Return the Filler in a folder or `hf:NAME`, with weights as float32 jax arrays; as strict as `hf.load`.

    Raises: InputError as `find` and `hf.load`, and if the stored last kernel differs from the word embeddings.
    """
    folder = find(source, families)
    _, raw, family = hf.open_checkpoint(folder, families)
    filling = family.filling
    assert filling is not None  # `find` refuses families without one
    config, notes = read_config(raw, family, folder / CONFIG)
    tensors, prefix_notes = hf.without_wrapper(read_weights(folder), folder, family)
    apart = family.split(tensors)
    names = rename(apart, family, config, ORIGINAL, folder)
    leaves = {path: (key, apart[key]) for key, path in names.items() if not path.startswith(OUTSIDE)}
    body = expected_shapes(family, config, {})
    shapes = {path: shape for path, shape in body.items() if not path.startswith(OUTSIDE)}
    shapes |= _shapes(filling, config)
    spelled = {modern(key): (key, value) for key, value in tensors.items()}
    for path, theirs in _leaves(filling, config).items():
        stored = [spelled[name] for name in theirs if name in spelled]
        if any(not np.array_equal(value, stored[0][1]) for _, value in stored):
            raise InputError(f"{folder}: {' and '.join(key for key, _ in stored)} differ, but are one parameter")
        leaves[f"filling/{path}"] = stored[0]
    decoder = tensors.get(f"{filling.decoder}.weight")
    if decoder is not None and not np.array_equal(decoder, leaves["embed/word/embedding"][1]):
        raise InputError(f"{folder}: {filling.decoder}.weight is not the word embeddings, though config.json says so")
    activation = filling.activation(config)
    params = to_params(leaves, shapes, folder)
    return Filler(folder, build(family, config), params, activation, config.shape.epsilon, notes + prefix_notes)


def _leaves(rows: Filling, config: Config) -> dict[str, tuple[str, ...]]:
    """Return {our path below "filling": the names under which the leaf may be stored}."""
    leaves = {
        "dense/kernel": (f"{rows.dense}.weight",),
        "dense/bias": (f"{rows.dense}.bias",),
        "norm/scale": (f"{rows.norm}.weight",),
        "norm/bias": (f"{rows.norm}.bias",),
        "bias": tuple(dict.fromkeys((rows.bias, f"{rows.decoder}.bias"))),
    }
    return {path: names for path, names in leaves.items() if path not in rows.absent(config)}


def _shapes(rows: Filling, config: Config) -> dict[str, tuple[int, ...]]:
    dim = config.shape.dim
    unlike = {"dense/kernel": (dim, dim), "bias": (config.shape.vocab,)}
    return {f"filling/{path}": unlike.get(path, (dim,)) for path in _leaves(rows, config)}


def _modern(names: Iterable[str]) -> set[str]:
    return {modern(name) for name in names}
