"""Dropout with nearly free random numbers: a keyed hash of each entry's index, fused by XLA."""

import zlib
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.experimental.xla_metadata import set_xla_metadata

LAST_FLOAT_BELOW_2_32 = 4294967040.0


def scramble(x: jax.Array) -> jax.Array:
    """Hash 32-bit words with a bijection in which every input bit flips each output bit with probability near ½.

    Reference: the `lowbias32` finalizer of Wellons, "Prospecting for hash functions" (2018).
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def random_words(seed: jax.Array, salt: int | jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return random uint32 of `shape` from a seed uint32 [2] and a salt: word i is a keyed hash of i.

    It replaces jax.random.bits because XLA fuses it into the multiplication that uses it, so that dropout costs no
    memory and hardly any time, and because it compiles in a third of threefry's time.
    """
    high, low = scramble(seed[0] ^ jnp.uint32(salt)), scramble(seed[1] + jnp.uint32(salt))
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
        stride *= shape[axis]
    return scramble(scramble(index ^ high) + low)


def drop(x: jax.Array, rate: float | jax.Array, seed: jax.Array, salt: int) -> jax.Array:
    """Zero each entry of `x` with probability `rate` in [0, 1) and divide the others by 1 - rate; the mean is `x`.

    `rate` may be traced. `salt` makes the places of a network that share a step's seed draw different numbers.
    """
    keep = 1.0 - rate
    limit = jnp.minimum(jnp.float32(keep) * 2.0**32, LAST_FLOAT_BELOW_2_32).astype(jnp.uint32)
    with _compiled_once():
        kept = _below(limit, seed, jnp.uint32(salt), x.shape)
    return jnp.where(kept, x * (1.0 / keep), jnp.zeros((), x.dtype))


@partial(jax.jit, static_argnums=3)
def _below(limit: jax.Array, seed: jax.Array, salt: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return random_words(seed, salt, shape) < limit


def _compiled_once() -> AbstractContextManager[None]:
    """On CPU, keep the hash a function of its own: inlined, it is compiled again in every loop that reads a mask.

    That took a fifth of the time to compile a training step. On GPU and TPU the inlined hash saves memory traffic.
    """
    return set_xla_metadata(inlineable="false") if jax.default_backend() == "cpu" else nullcontext()


def salt_of(module: nn.Module) -> int:
    """Return a salt for a module from its path in the network, the same in every process."""
    return zlib.crc32("/".join(module.path).encode())


class Dropout(nn.Module):
    """Applies `drop`; the identity if the seed is None or the rate is 0."""

    rate: float

    def __call__(self, x: jax.Array, seed: jax.Array | None) -> jax.Array:
        return x if seed is None or self.rate == 0.0 else drop(x, self.rate, seed, salt_of(self))
