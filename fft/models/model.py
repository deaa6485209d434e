"""The types of a loaded model: Head, Model, Checkpoint, Family, and `build`, which makes a Model of a config."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fft.core.batch import Array, Read, States, Text
from fft.core.brief import brief
from fft.core.errors import InputError
from fft.core.network import ReadoutOf, StatesOf, outputs_of
from fft.core.programs import shared
from fft.core.tree import Params
from fft.models.layers import Config, Encoder, HeadMaker, Readout
from fft.models.prompt import inputs as prompted


class Head(NamedTuple):
    """What a head predicts: `kind` is 'classification' or 'regression'; `labels` in index order, () for regression."""

    kind: str
    labels: tuple[str, ...]


class Model(NamedTuple):
    """One encoder family at one size, as pure functions over a plain parameter tree.

    states(params, batch, *, read=("pooled",), key=None, layers=()) -> States; batch has `ids`, `mask`, `types`, int32
    [B, T]; key None means no dropout; `read` is of "pooled" and "tokens"; params['prompt'], where there is one, is as
    fft.models.prompt says. InputError for ids or types that the model has no row for, outside jit.
    readout(params, head, states, *, key=None) -> [..., C], a head of params['heads'] on states [..., D].
    init_head(key, classes) -> head_params, normal(0, initializer_range) kernels and zero biases.
    """

    family: str
    config: Config
    depth: int
    states: StatesOf
    readout: ReadoutOf
    init_head: Callable[[jax.Array, int], Params]
    __repr__ = brief

    def apply(self, params: Params, batch: Text, key: jax.Array | None = None) -> dict[str, Any]:
        """{'pooled': [B, D], 'logits': {head: [B, C]}}, every head on the pooled states; for notebooks."""
        outputs = outputs_of(self, params, batch, key=key)
        logits = {head: outputs.read(head, outputs.pooled) for head in params.get("heads", {})}
        return {"pooled": outputs.pooled, "logits": logits}


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


@shared
def build(family: Family, config: Config) -> Model:
    """Return the Model of a family at the sizes of its config, the same one for equal configs.

    The parameters are an argument of every function; nothing is held but the config.
    """
    shape, head_of = config.shape, family.head(config)

    def states(
        params: Params,
        batch: Text,
        *,
        read: Collection[Read] = ("pooled",),
        key: jax.Array | None = None,
        layers: tuple[int, ...] = (),
    ) -> States:
        refuse_outside("token id", batch.ids, shape.vocab)
        if shape.types:
            refuse_outside("token type", batch.types, shape.types)
        *arrays, prompt = prompted(params, batch, config)
        encoder = Encoder(shape, frozenset(read), layers)
        return cast("States", encoder.apply({"params": params}, *arrays, seed_of(key), prompt))

    def readout(params: Params, head: str, states: Array, *, key: jax.Array | None = None) -> jax.Array:
        classes = params["heads"][head]["out"]["kernel"].shape[1]
        module = Readout(head_of, ((head, classes),))
        return cast("dict[str, jax.Array]", module.apply({"params": params}, states, seed_of(key)))[head]

    def init_head(key: jax.Array, classes: int) -> Params:
        zeros = head_of(classes=classes).init(key, jnp.zeros((1, shape.dim)), None)["params"]
        leaves, tree = jax.tree.flatten(zeros)
        drawn = [
            config.initializer_range * jax.random.normal(each, leaf.shape) if leaf.ndim == 2 else leaf
            for each, leaf in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
        ]
        return jax.tree.unflatten(tree, drawn)

    return Model(family.name, config, shape.depth, states, readout, init_head)


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
