"""The random keys of a run."""

import jax

PURPOSES = ("train", "init", "prepare", "heads", "repair")


def key_for(seed: int, purpose: str) -> jax.Array:
    """The random key of one purpose of a run; purposes never share draws.

    Of the kind threefry, whose draws do not depend on how they are batched: the Fisher is the same for every chunk.
    """
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), PURPOSES.index(purpose))
