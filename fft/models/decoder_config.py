"""The fields that the configs of decoder families share, and their DecoderShape; rope fields in all spellings.

transformers 5 writes `rope_parameters`, older versions `rope_theta` and `rope_scaling`; both are read, and refused if
they contradict each other.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from fft.core.batch import Array
from fft.models.decoder import DecoderShape, LayerAttention, positions_of
from fft.models.fields import Activation, Depth, Positive, Rate, Size, Small, Switch, Token, Valid, is_number
from fft.models.layers import Dense
from fft.models.rope import KINDS, READ, Rope

FULL, SLIDING = "full_attention", "sliding_attention"


def is_object(value: Any, config: Any = None) -> bool:
    """Whether a value is a JSON object as `fft.models.files.config.hashable` returns it."""
    return isinstance(value, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)


RopeFields = Annotated[tuple[tuple[str, Any], ...], Valid("an object of rope fields", is_object)]
"""an object of config.json as `fft.models.files.config.hashable` returns it"""
LayerTypes = Annotated[
    tuple[str, ...],
    Valid(
        f"one of {FULL} and {SLIDING} for each layer",
        lambda value, config: (
            isinstance(value, tuple) and set(value) <= {FULL, SLIDING} and len(value) == config.num_hidden_layers
        ),
    ),
]


def _is_switches(value: Any, config: Any) -> bool:
    return isinstance(value, tuple) and len(value) == config.num_hidden_layers and set(value) <= {0, 1}


Flags = Annotated[tuple[int, ...], Valid("0 or 1 for each layer", _is_switches)]


def alternating(period: int, depth: int) -> tuple[str, ...]:
    """Return the type of each layer where every `period`-th one has full attention, and the others a window."""
    return tuple(FULL if (i + 1) % period == 0 else SLIDING for i in range(depth))


@dataclass(frozen=True)
class DecoderConfig:
    """The fields that Llama, Mistral, Qwen, SmolLM3 and Gemma share, with Llama's defaults.

    A family adds its own fields, and overrides `choices`, `windows` or `ropes` where they decide something.
    """

    vocab_size: Size = 32000
    hidden_size: Size = 4096
    intermediate_size: Size = 11008
    num_hidden_layers: Depth = 32
    num_attention_heads: Size = 32
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    hidden_act: Activation = "silu"
    max_position_embeddings: Size = 2048
    initializer_range: Small = 0.02
    rms_norm_eps: Small = 1e-6
    attention_dropout: Rate = 0.0
    tie_word_embeddings: Switch = False
    pad_token_id: Token | None = None
    rope_parameters: RopeFields | None = None
    rope_scaling: RopeFields | None = None
    rope_theta: Positive | None = None

    default_theta: ClassVar[float] = 10_000.0

    @property
    def shape(self) -> DecoderShape:
        """The sizes, rates and choices as a DecoderShape."""
        ropes, windows, scales = self.ropes(), self.windows(), self.scales()
        return DecoderShape(
            vocab=self.vocab_size,
            positions=self.max_position_embeddings,
            dim=self.hidden_size,
            depth=self.num_hidden_layers,
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads or self.num_attention_heads,
            width=self.width,
            mlp=self.intermediate_size,
            activation=self.activation,
            epsilon=self.rms_norm_eps,
            attention=tuple(map(LayerAttention, windows, ropes, scales)),
            pad=self.pad_token_id,
            tied=self.tie_word_embeddings,
            attention_dropout=self.attention_dropout,
            **self.choices(),
        )

    @property
    def width(self) -> int:
        """K, the width of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def activation(self) -> str:
        """The activation of the MLP."""
        return self.hidden_act

    @property
    def head_dropout(self) -> float:
        """0: a score head is not preceded by dropout."""
        return 0.0

    @property
    def max_positions(self) -> int:
        """The length of the longest text, in tokens."""
        return self.max_position_embeddings

    def choices(self) -> Mapping[str, Any]:
        """Return the fields of DecoderShape by which the family differs from Llama."""
        return {}

    def windows(self) -> tuple[int | None, ...]:
        """Return the window of each layer."""
        return (None,) * self.num_hidden_layers

    def types(self) -> tuple[str, ...]:
        """Return the type of each layer, where layers differ in their type."""
        return (FULL,) * self.num_hidden_layers

    def ropes(self) -> tuple[Rope | None, ...]:
        """Return the rotation of each layer."""
        return (self.rope(),) * self.num_hidden_layers

    def sliding(self, window: int | None, types: tuple[str, ...]) -> tuple[int | None, ...]:
        """Return `window` for the layers of sliding attention in `types`, None for the others."""
        return tuple(window if kind == SLIDING else None for kind in types)

    def scales(self) -> tuple[float, ...]:
        """Return the factor of the scores of each layer."""
        return (self.width**-0.5,) * self.num_hidden_layers

    def rope(self) -> Rope:
        """Return the rotation that the rope fields describe."""
        return self.rope_of(self.rope_fields()[FULL], self.default_theta)

    def rope_fields(self) -> dict[str, dict[str, Any]]:
        """Return the rope fields by type of layer; families with one rotation have it for full attention.

        Raises: ValueError for fields that contradict each other.
        """
        return {FULL: merged_rope(self)}

    def rope_of(self, given: Mapping[str, Any], theta: float) -> Rope:
        """Return the rotation of some rope fields; `theta` is the default."""
        return rope_of(given, self.width, self.max_position_embeddings, theta)

    def positions(self, ids: jax.Array, mask: Array, places: int = 0) -> jax.Array:
        """Return the position ids [B, T]; they count from 0 in every segment of the mask."""
        return positions_of(jnp.asarray(mask))

    def problems(self) -> Iterator[str]:
        """Yield what does not fit together."""
        yield from rope_problems(self)
        groups = self.num_key_value_heads or self.num_attention_heads
        if self.num_attention_heads % groups:
            yield f"{self.num_attention_heads} attention heads are not a multiple of {groups} key-value heads"
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            yield f"the model width {self.hidden_size} is not a multiple of its {self.num_attention_heads} heads"
        if SLIDING in self.types() and not any(self.windows()):
            yield f"layer_types has {SLIDING}, but there is no window: check sliding_window and use_sliding_window"


class ScoreHead(nn.Module):
    """One dense layer without bias: pooled [B, D] -> [B, C]."""

    classes: int

    @nn.compact
    def __call__(self, pooled: jax.Array, seed: jax.Array | None) -> jax.Array:
        return Dense(self.classes, use_bias=False, name="out")(pooled, seed)


class Rotated(Protocol):
    """The config of a model with rotary positions."""

    @property
    def width(self) -> int:
        """K, the width of a head."""
        ...

    @property
    def max_position_embeddings(self) -> int:
        """The number of positions that the model was trained for."""
        ...

    def rope_fields(self) -> dict[str, dict[str, Any]]:
        """Return the rope fields by type of layer. Raises: ValueError for fields that contradict each other."""
        ...


def rope_problems(config: Rotated) -> Iterator[str]:
    """Yield what is wrong with the rope fields of a config, and whether its heads cannot be rotated."""
    if config.width % 2:
        yield f"the head width {config.width} is odd, which rotary positions do not allow"
    try:
        by_type = config.rope_fields()
    except ValueError as error:
        yield str(error)
        return
    for given in by_type.values():
        yield from wrong_rope(given, config.width)


def rope_of(given: Mapping[str, Any], width: int, max_positions: int, theta: float) -> Rope:
    """Return the rotation of some rope fields for heads of this width; `theta` is the default."""
    known = {field.name for field in fields(Rope)}
    own = {name: value for name, value in given.items() if name in known and value is not None}
    return Rope(**{"width": width, "max_positions": max_positions, "rope_theta": theta} | own)


def nested_rope(rope_parameters: RopeFields | None) -> dict[str, dict[str, Any]]:
    """Return rope_parameters that are nested by type of layer as {FULL: fields, SLIDING: fields}.

    Raises: ValueError if they are not nested or name another type.
    """
    nested = dict(rope_parameters or ())
    if strange := sorted(set(nested) - {FULL, SLIDING}):
        raise ValueError(f"rope_parameters has {', '.join(strange)}; expected {FULL} and {SLIDING}")
    if wrong := [kind for kind, values in nested.items() if values is not None and not is_object(values)]:
        raise ValueError(f"rope_parameters.{wrong[0]} must be an object of rope fields, but is {nested[wrong[0]]!r}")
    return {kind: dict(nested.get(kind) or ()) for kind in (FULL, SLIDING)}


def merged_rope(config: DecoderConfig) -> dict[str, Any]:
    """Return the rope fields from rope_parameters, rope_scaling and rope_theta, which must not contradict each other.

    Raises: ValueError naming a field that has two values.
    """
    return merged(
        {
            "rope_parameters": dict(config.rope_parameters or ()),
            "rope_scaling": dict(config.rope_scaling or ()),
            "": {} if config.rope_theta is None else {"rope_theta": config.rope_theta},
        }
    )


def merged(sources: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the rope fields of several objects {name: fields} as one; `type` is the old name of rope_type.

    Raises: ValueError naming a field that has two values.
    """
    given: dict[str, Any] = {}
    for source, values in sources.items():
        for spelled, value in values.items():
            name = "rope_type" if spelled == "type" else spelled
            if name in given and given[name] != value:
                at = f"{source}.{spelled}" if source else spelled
                raise ValueError(
                    f"the rope fields contradict each other: {name} is {given[name]!r}, but {at} is {value!r}"
                )
            given[name] = value
    return given


NEEDED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}
LISTS = ("short_factor", "long_factor")


def wrong_rope(given: Mapping[str, Any], width: int) -> Iterator[str]:
    """Yield what is wrong with the rope fields of heads of `width` entries.

    That is an unknown type, fields that the type lacks or does not read, and wrong values.
    """
    kind = given.get("rope_type", "default")
    if kind not in KINDS:
        yield f"rope_type {kind!r} is not supported; supported are {', '.join(KINDS)}"
        return
    read = {"rope_type", "rope_theta", *READ[kind]}
    if strange := sorted(name for name, value in given.items() if name not in read and value is not None):
        yield f"rope_type {kind!r} does not read {', '.join(strange)}"
    if missing := [name for name in NEEDED.get(kind, ()) if given.get(name) is None]:
        yield f"rope_type {kind!r} needs {', '.join(missing)}"
    for name, value in sorted(given.items()):
        if value is None or name not in read - {"rope_type"}:
            continue
        if name == "truncate":
            valid, words = type(value) is bool, "true or false"
        elif name in LISTS:
            valid = isinstance(value, tuple) and len(value) == width // 2 and all(map(_is_positive, value))
            words = f"a list of {width // 2} positive numbers, one for each pair of a head's entries"
        else:
            valid, words = _is_positive(value), "a positive number"
        if not valid:
            yield f"rope field {name} must be {words}, but is {value!r}"
    if kind == "llama3" and all(_is_positive(given.get(name)) for name in NEEDED[kind]):
        low, high = given["low_freq_factor"], given["high_freq_factor"]
        if low >= high:
            yield f"rope field high_freq_factor must exceed low_freq_factor, but is {high} beside {low}"


def _is_positive(value: Any) -> bool:
    return is_number(value) and 0 < value < math.inf


LAYER = "layers.{i}"
ATTENTION = (
    (f"{LAYER}.self_attn.q_proj", "layers/{i}/attention/query", "dense"),
    (f"{LAYER}.self_attn.k_proj", "layers/{i}/attention/key", "dense"),
    (f"{LAYER}.self_attn.v_proj", "layers/{i}/attention/value", "dense"),
    (f"{LAYER}.self_attn.q_norm", "layers/{i}/attention/query_norm", "norm"),
    (f"{LAYER}.self_attn.k_norm", "layers/{i}/attention/key_norm", "norm"),
    (f"{LAYER}.self_attn.o_proj", "layers/{i}/attention/out", "dense"),
)
MLP = (
    (f"{LAYER}.mlp.gate_proj", "layers/{i}/mlp/gate", "dense"),
    (f"{LAYER}.mlp.up_proj", "layers/{i}/mlp/up", "dense"),
    (f"{LAYER}.mlp.down_proj", "layers/{i}/mlp/down", "dense"),
)
ENDS = (("embed_tokens", "embed/word", "embed"), ("norm", "final_norm", "norm"))
BODY = (
    *ENDS,
    (f"{LAYER}.input_layernorm", "layers/{i}/attention_norm", "norm"),
    *ATTENTION,
    (f"{LAYER}.post_attention_layernorm", "layers/{i}/mlp_norm", "norm"),
    *MLP,
)
"""the key table of Llama, Mistral, Qwen and SmolLM3; a row counts where the model has its leaves"""
HEAD_ROWS = (("score", "out", "dense"),)
IGNORED = (r"lm_head\..*", r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
"""the language head, which sequence tasks do not read, and buffers of old versions"""
