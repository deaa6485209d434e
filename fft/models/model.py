"""The types of a loaded model: Head, Model, Checkpoint, Family, and `build`, which makes a Model of a config."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.core import Tracer

from fft.core.brief import brief
from fft.core.errors import InputError
from fft.core.tree import Params
from fft.models.layers import Config, HeadMaker, Network, Tokens
from fft.models.prompt import inputs as prompted

Made = TypeVar("Made", covariant=True)


class Pass(Protocol[Made]):
    """A pure function of parameters and a batch; a key turns dropout on."""

    def __call__(self, params: Params, batch: dict, key: jax.Array | None = None) -> Made:
        """What it makes of the batch."""
        ...


class HeadPass(Protocol):
    """A pure function of a head's parameters and pooled features; a key turns dropout on."""

    def __call__(self, head_params: Params, pooled: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The logits [B, C] of the features [B, D]."""
        ...


class Head(NamedTuple):
    """What a head predicts: `kind` is 'classification' or 'regression'; `labels` in index order, () for regression."""

    kind: str
    labels: tuple[str, ...]


class Model(NamedTuple):
    """One encoder family at one size, as pure functions over a plain parameter tree.

    apply(params, batch, key=None) -> {'pooled': [B, D], 'logits': {head: [B, C]}}; batch holds 'ids', 'mask',
    'types', int32 [B, T]; key None means no dropout; the heads are those of params['heads']; params['prompt'], where
    there is one, is as fft.models.prompt says. InputError for ids or types that the model has no row for, outside jit.
    encode(params, batch, key=None) -> [B, T, D], the hidden states of all tokens, which `apply` does not compute.
    head(head_params, pooled, key=None) -> [B, C], one head alone on pooled features [B, D].
    init_head(key, classes) -> head_params, normal(0, initializer_range) kernels and zero biases.
    """

    family: str
    config: Config
    depth: int
    apply: Pass[dict[str, Any]]
    encode: Pass[jax.Array]
    head: HeadPass
    init_head: Callable[[jax.Array, int], Params]
    __repr__ = brief


class Checkpoint(NamedTuple):
    """A model with its weights and where they came from.

    `primary` names the head stored as Hugging Face's classifier (None: the checkpoint has no head); `raw_config` is
    config.json as read, with 'dtype' set to the dtype of the stored weights; `notes` are what whoever uses it should
    be told of its files; `max_length` is the number of tokens that longer texts were cut to in its training, None where
    nobody wrote it down.
    """

    model: Model
    params: Params
    heads: dict[str, Head]
    primary: str | None
    folder: Path
    raw_config: dict
    notes: tuple[str, ...] = ()
    max_length: int | None = None
    __repr__ = brief


class Filling(NamedTuple):
    """Where a family keeps its masked-language head: the names of dense layer, norm, bias and last kernel ("decoder"),
    and config -> activation.
    """

    dense: str
    norm: str
    bias: str
    decoder: str
    activation: Callable[[Config], str]


class Family(NamedTuple):
    """What a family file hands to the loader.

    name: config.json's model_type; prefix: of the encoder's keys in a model with a head; architecture: the stem of
    Hugging Face's class names; config: frozen dataclass; body, head_rows: key table rows (hf module, our module,
    kind); ignored: regexes of keys that are left out;
    head: config -> constructor of the linen head module, called with classes and a name; filling: the head that
    fills in masked tokens, which only fft.models.files.filler reads.
    """

    name: str
    prefix: str
    architecture: str
    config: type[Config]
    body: tuple[tuple[str, str, str], ...]
    head_rows: tuple[tuple[str, str, str], ...]
    ignored: tuple[str, ...]
    head: Callable[[Config], HeadMaker]
    filling: Filling


def build(family: Family, config: Config) -> Model:
    """Return the Model of a family at the sizes of its config.

    The parameters are an argument of every function; nothing is held but the config.
    """
    shape, head = config.shape, family.head(config)

    def run(network: nn.Module, params: Params, batch: dict, key: jax.Array | None) -> Any:
        refuse_outside("token id", batch["ids"], shape.vocab)
        if shape.types:
            refuse_outside("token type", batch["types"], shape.types)
        *arrays, prompt = prompted(params, batch, config)
        return network.apply({"params": params}, *arrays, seed_of(key), prompt)

    def apply(params: Params, batch: dict, key: jax.Array | None = None) -> dict[str, Any]:
        classes = tuple((name, tree["out"]["kernel"].shape[1]) for name, tree in params.get("heads", {}).items())
        return run(Network(shape, head, classes), params, batch, key)

    def encode(params: Params, batch: dict, key: jax.Array | None = None) -> jax.Array:
        return run(Tokens(shape), params, batch, key)

    def head_alone(head_params: Params, pooled: jax.Array, key: jax.Array | None = None) -> jax.Array:
        module = head(classes=head_params["out"]["kernel"].shape[1])
        return cast("jax.Array", module.apply({"params": head_params}, pooled, seed_of(key)))

    def init_head(key: jax.Array, classes: int) -> Params:
        zeros = head(classes=classes).init(key, jnp.zeros((1, shape.dim)), None)["params"]
        leaves, tree = jax.tree.flatten(zeros)
        drawn = [
            config.initializer_range * jax.random.normal(each, leaf.shape) if leaf.ndim == 2 else leaf
            for each, leaf in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
        ]
        return jax.tree.unflatten(tree, drawn)

    return Model(family.name, config, shape.depth, apply, encode, head_alone, init_head)


def refuse_outside(what: str, numbers: jax.Array | np.ndarray, size: int) -> None:
    """Refuse numbers [B, T] without a row in a table of `size` rows, whose embedding would be NaN or another's.

    Under a transformation such as jit the numbers are not known, and nothing is refused.
    """
    if isinstance(numbers, Tracer):
        return
    numbers = np.asarray(numbers)
    outside = np.argwhere((numbers < 0) | (numbers >= size))
    if len(outside):
        row, place = outside[0]
        raise InputError(
            f"row {row + 1}, token {place + 1}: the {what} {numbers[row, place]} is not one of this model, which has "
            f"0 to {size - 1}. Use the tokenizer that the model was trained with"
        )


def seed_of(key: jax.Array | None) -> jax.Array | None:
    """The dropout seed uint32 [2] of one call, from a jax key of any implementation; None without a key."""
    return None if key is None else jax.random.bits(key, (2,), jnp.uint32)
