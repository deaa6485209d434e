"""The types of a loaded model: Head, Model, Checkpoint, Family, and `build`, which returns a Model for a config."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.core import Tracer

from fft.core.batch import Array, Read, States, Text, segments_of
from fft.core.brief import brief
from fft.core.computation import PRECISE, Computation, widened
from fft.core.errors import InputError
from fft.core.naming import UNEMBED
from fft.core.network import ReadoutOf, StatesOf, outputs_of
from fft.core.programs import shared
from fft.core.tree import Params
from fft.models.cache import Extend, extend_with
from fft.models.decoder import DecoderShape
from fft.models.language import LanguageHead, LanguageReadout
from fft.models.layers import Config, HeadMaker, Readout
from fft.models.prompt import inputs as prompted


class Head(NamedTuple):
    """The outputs of a head: `kind` is that of its task, a name in fft.tasks.KINDS; `labels` are its classes in index
    order, () for other kinds.
    """

    kind: str
    labels: tuple[str, ...]


class Model(NamedTuple):
    """A network of one family and size, as pure functions of a parameter tree of nested dicts.

    states(params, batch, *, read=("pooled",), key=None, layers=()) -> States; batch has `ids`, `mask`, `types`, int32
    [B, T]; without a key there is no dropout; `read` may contain "pooled" and "tokens"; for params['prompt'] see
    fft.models.prompt. A causal model reads the texts of packed rows apart, see Batch.segments. It raises InputError
    for packed rows of other models, and outside jit for ids or types outside the embedding tables.
    readout(params, head, states, *, key=None) -> [..., C], a head of params['heads'] on states [..., D], or `unembed`.
    unembed(params, states [..., D]) -> [..., V], the logits of the next token, or of an encoder's masked one, by the
    language head in params['unembed'], whose last kernel may be the word embeddings; InputError if it was not loaded.
    extend(params, cache, ids, mask, first=False) -> (states [B, t, D], cache), the next tokens of texts whose earlier
    ones are in the cache, see fft.models.cache; None for a model that does not predict the next token.
    init_head(key, classes) -> head_params, normal(0, initializer_range) kernels and zero biases.
    All of them take and return float32, whatever the format of the `computation`.
    """

    family: str
    config: Config
    depth: int
    states: StatesOf
    readout: ReadoutOf
    init_head: Callable[[jax.Array, int], Params]
    unembed: Callable[[Params, Array], jax.Array]
    extend: Extend | None
    computation: Computation = PRECISE
    __repr__ = brief

    def apply(self, params: Params, batch: Text, key: jax.Array | None = None) -> dict[str, Any]:
        """Return {'pooled': [B, D], 'logits': {head: [B, C]}}, every head on the pooled states; for notebooks."""
        outputs = outputs_of(self, params, batch, key=key)
        logits = {head: outputs.read(head, outputs.pooled) for head in params.get("heads", {})}
        return {"pooled": outputs.pooled, "logits": logits}


class Checkpoint(NamedTuple):
    """A model with its weights and their origin.

    `primary` names the head stored as Hugging Face's classifier (None: the checkpoint has no head, UNEMBED: it is a
    language model); `raw_config` is
    config.json as read, with 'dtype' set to the dtype of the stored weights; `notes` are remarks about its files for
    the user; `max_length` is the number of tokens to which texts were truncated in its training, None if not recorded;
    `language` is whether its language head was read; `template` is the chat template to save in place of the folder's.
    """

    model: Model
    params: Params
    heads: dict[str, Head]
    primary: str | None
    folder: Path
    raw_config: dict
    notes: tuple[str, ...] = ()
    max_length: int | None = None
    language: bool = False
    template: str | None = None
    __repr__ = brief

    @property
    def classifier(self) -> str | None:
        """The head that a Hugging Face checkpoint stores as its classifier; None for a language model."""
        return None if self.primary == UNEMBED else self.primary

    def head(self, name: str | None) -> Head | None:
        """Return the head of this name, UNEMBED being the language head if it was read; None if there is none."""
        if name == UNEMBED and self.language:
            return Head("language", ())
        return None if name is None else self.heads.get(name)


class Family(NamedTuple):
    """The description of a family, defined in its file and used by the loader.

    name: config.json's model_type; prefix: of the body's keys in a model with a head; architecture: the stem of
    Hugging Face's class names; network: the linen module of the body, Encoder or Decoder; config: a frozen dataclass;
    body, head_rows: rows of the key table (hf module, our module, kind); ignored: regexes of keys to skip; head: config
    -> constructor of the linen head module; language: the head that predicts tokens, the next or masked ones;
    split, join: stored tensors {name: array} to those of the key table, and back, where files fuse or transpose them;
    stacks: the fused names and their parts, as in fft.models.files.stacked; turned: the ends of names that files store
    as [in, out].
    """

    name: str
    prefix: str
    architecture: str
    network: Callable[..., nn.Module]
    config: type[Config]
    body: tuple[tuple[str, str, str], ...]
    head_rows: tuple[tuple[str, str, str], ...]
    ignored: tuple[str, ...]
    head: Callable[[Config], HeadMaker]
    language: LanguageHead
    split: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda tensors: tensors
    join: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda tensors: tensors
    stacks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    turned: tuple[str, ...] = ()


@shared
def build(family: Family, config: Config, computation: Computation = PRECISE) -> Model:
    """Return the Model of a family for a config; equal configs share one Model.

    It holds no parameters: they are an argument of its functions. Of the `computation` it does not read `base_dtype`,
    which is that of parameters.
    """
    shape = replace(config.shape, dtype=computation.compute, remat=computation.remat == "full")
    head_of, unembed_of = family.head(config), family.language.module(config).clone(shape=shape)

    def states(
        params: Params,
        batch: Text,
        *,
        read: Collection[Read] = ("pooled",),
        key: jax.Array | None = None,
        layers: tuple[int, ...] = (),
    ) -> States:
        if family.language.masked and segments_of(batch) is not None:
            raise InputError(
                f"packed rows hold several texts, which {family.name} would read as one: pack rows for causal language "
                "models alone, or leave out --pack"
            )
        refuse_outside("token id", batch.ids, shape.vocab)
        if shape.types:
            refuse_outside("token type", batch.types, shape.types)
        *arrays, prompt = prompted(params, batch, config)
        network = family.network(shape, frozenset(read), layers)
        return widened(cast("States", network.apply({"params": params}, *arrays, seed_of(key), prompt)))

    def readout(params: Params, head: str, states: Array, *, key: jax.Array | None = None) -> jax.Array:
        if head == UNEMBED:
            return unembed(params, states)
        classes = params["heads"][head]["out"]["kernel"].shape[1]
        module = Readout(head_of, ((head, classes),))
        return cast("dict[str, jax.Array]", module.apply({"params": params}, states, seed_of(key)))[head]

    def init_head(key: jax.Array, classes: int) -> Params:
        zeros = head_of(classes=classes).init(key, jnp.zeros((1, shape.dim)), None)["params"]
        leaves, tree = jax.tree.flatten(zeros)
        drawn = [
            config.initializer_range * jax.random.normal(leaf_key, leaf.shape) if leaf.ndim == 2 else leaf
            for leaf_key, leaf in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
        ]
        return jax.tree.unflatten(tree, drawn)

    def unembed(params: Params, states: Array) -> jax.Array:
        if unembed_of.has_leaves and UNEMBED not in params:
            raise InputError(
                f"the parameters of this {family.name} model have no language head: load them with "
                "models.load(folder, language=True)"
            )
        words = params["embed"]["word"]["embedding"]
        return cast("jax.Array", LanguageReadout(unembed_of).apply({"params": params}, jnp.asarray(states), words))

    extend = None if family.language.masked else extend_with(family.network, cast("DecoderShape", shape))
    return Model(family.name, config, shape.depth, states, readout, init_head, unembed, extend, computation)


def refuse_outside(what: str, numbers: jax.Array | np.ndarray, size: int) -> None:
    """Reject ids [B, T] outside an embedding table of `size` rows, which would silently get NaN or another id's row.

    Under a transformation such as jit the ids are not known and not checked. Raises: InputError.
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
    """Return a dropout seed uint32 [2] for a jax key of any implementation; None without a key."""
    return None if key is None else jax.random.bits(key, (2,), jnp.uint32)
