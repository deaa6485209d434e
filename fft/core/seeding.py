"""The random keys of a run."""

import jax

PURPOSES = ("train", "init", "prepare", "heads", "repair", "generate")


def key_for(seed: int, purpose: str) -> jax.Array:
    """Return the random key for one purpose of a run; different purposes draw independently.

    The generator is threefry, whose draws do not depend on how they are batched: the Fisher information is the same
    for every chunk size.
    """
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), PURPOSES.index(purpose))
