"""Rotary position embeddings: inverse frequencies of every kind, and the rotation of queries and keys.

References: Su et al., RoFormer, arXiv 2104.09864; Chen et al. (linear), arXiv 2306.15595; Peng et al., YaRN, arXiv
2309.00071; Ding et al., LongRoPE, arXiv 2402.13753; the Llama 3 team (llama3), arXiv 2407.21783.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

DEFAULT_THETA = 10_000.0


@dataclass(frozen=True)
class Rope:
    """The rotation of one kind of layer: the fields of config.json's `rope_parameters`, under their own names.

    `width` is the number of entries of a head that are rotated, the first ones; `max_positions` is
    max_position_embeddings.
    """

    width: int
    max_positions: int
    rope_type: str = "default"
    rope_theta: float = DEFAULT_THETA
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None

    @property
    def original_positions(self) -> int:
        """The number of positions in the training before the context was extended."""
        return self.original_max_position_embeddings or self.max_positions


def _default(rope: Rope) -> tuple[np.ndarray, float]:
    return np.float32(1) / _powers(rope), 1.0


def _linear(rope: Rope) -> tuple[np.ndarray, float]:
    return _default(rope)[0] / np.float32(_given(rope, "factor")), 1.0


def _llama3(rope: Rope) -> tuple[np.ndarray, float]:
    frequencies, _ = _default(rope)
    factor, low, high = (_given(rope, name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    positions = rope.original_positions
    wavelengths = np.float32(2 * math.pi) * (1 / frequencies)  # torch divides numbers by tensors in two steps
    scaled = np.where(wavelengths > positions / low, frequencies / np.float32(factor), frequencies)
    smooth = (np.float32(positions) * (1 / wavelengths) - np.float32(low)) / np.float32(high - low)
    between = (1 - smooth) * scaled / np.float32(factor) + smooth * scaled
    is_between = (wavelengths >= positions / high) & (wavelengths <= positions / low)
    return np.where(is_between, between, scaled), 1.0


def _yarn(rope: Rope) -> tuple[np.ndarray, float]:
    positions = rope.original_positions
    factor = rope.factor if rope.factor is not None else rope.max_positions / positions

    def dimension(rotations: float) -> float:
        """Return the dimension that makes so many rotations over the original positions."""
        return rope.width * math.log(positions / (rotations * 2 * math.pi)) / (2 * math.log(rope.rope_theta))

    low, high = dimension(rope.beta_fast or 32), dimension(rope.beta_slow or 1)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.width - 1)
    ramp = (np.arange(rope.width // 2, dtype=np.float32) - np.float32(low)) / np.float32(
        high - low if high != low else 0.001
    )
    kept = 1 - np.clip(ramp, 0, 1)
    powers = _powers(rope)
    inside, outside = np.float32(1) / (np.float32(factor) * powers), np.float32(1) / powers
    return inside * (1 - kept) + outside * kept, _yarn_scale(rope, factor)


def _yarn_scale(rope: Rope, factor: float) -> float:
    def scale(mscale: float = 1.0) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale()


def _longrope(rope: Rope) -> tuple[np.ndarray, float]:
    return _longrope_by(rope.short_factor, rope), _longrope_scale(rope)


def _longrope_by(factors: tuple[float, ...] | None, rope: Rope) -> np.ndarray:
    return np.float32(1) / (np.asarray(factors, np.float32) * _powers(rope))


def _longrope_scale(rope: Rope) -> float:
    positions = rope.original_positions
    factor = rope.factor if rope.factor is not None else rope.max_positions / positions
    if rope.attention_factor is not None:
        return rope.attention_factor
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(positions))


KINDS: dict[str, Callable[[Rope], tuple[np.ndarray, float]]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _default,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
}
"""rope_type: the inverse frequencies float32 [width / 2], and the factor of cosines and sines.

`dynamic` differs from `default` only beyond max_position_embeddings, and longer rows are refused. The frequencies of
`longrope` are those of segments of at most original_max_position_embeddings tokens; `table` takes others for longer
ones.
"""
READ = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "longrope": (
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "short_factor",
        "long_factor",
    ),
}
"""the fields that each rope_type reads beside rope_theta; others must be absent"""


def _powers(rope: Rope) -> np.ndarray:
    """Return theta^(2i / width), float32 [width / 2].

    Computed in float64 and rounded once: torch's float32 power is rounded nearly always the same way.
    """
    exponents = np.arange(0, rope.width, 2).astype(np.float32) / np.float32(rope.width)
    return np.power(np.float64(rope.rope_theta), exponents.astype(np.float64)).astype(np.float32)


def _given(rope: Rope, name: str) -> float:
    value = getattr(rope, name)
    assert value is not None, name  # checked when config.json was read
    return value


def table(rope: Rope, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return cosines and sines float32 [B, T, width / 2] for positions int32 [B, T], which count from 0 in segments."""
    frequencies, scale = KINDS[rope.rope_type](rope)
    if rope.rope_type == "longrope":
        is_long = lengths(positions)[..., None] > rope.original_positions
        frequencies = jnp.where(is_long, _longrope_by(rope.long_factor, rope), frequencies)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles) * scale, jnp.sin(angles) * scale


def lengths(positions: jax.Array) -> jax.Array:
    """Return the length int32 [B, T] of the segment of each token; positions [B, T] count from 0 in every segment."""
    index = jnp.arange(positions.shape[1], dtype=jnp.int32)[None]
    is_last = jnp.concatenate([positions[:, 1:] == 0, jnp.ones_like(positions[:, :1], bool)], axis=1)
    ends = jax.lax.cummin(jnp.where(is_last, index, positions.shape[1]), axis=1, reverse=True)
    return positions + ends - index + 1


def rotated(x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Rotate pairs of the first entries of every head, x [B, T, H, K], by tables [B, T, R/2]; i pairs with i + R/2."""
    half = cosines.shape[-1]
    cosines, sines = cosines[:, :, None], sines[:, :, None]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    turned = [first * cosines - second * sines, second * cosines + first * sines]
    return jnp.concatenate([*turned, rest] if rest.shape[-1] else turned, axis=-1).astype(x.dtype)
