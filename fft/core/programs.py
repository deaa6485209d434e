"""Reuse of jitted functions across runs: for equal settings a function is traced and compiled once per process."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Built = TypeVar("Built")
CACHE_SIZE = 8
"""results cached per builder; a jitted function holds the programs of all shapes it was called with"""


def shared(build: Callable[P, Built]) -> Callable[P, Built]:
    """Cache `build`, which returns a jitted function, so that equal arguments give the same function.

    The runs of a sweep, the stages of a sequence and the seeds of an ablation thus share compiled programs. Arguments
    that cannot be hashed are not cached.
    """
    cached = lru_cache(CACHE_SIZE, typed=True)(build)  # typed: NamedTuples of two types may have equal fields

    @wraps(build)
    def call(*args: P.args, **kwargs: P.kwargs) -> Built:
        try:
            hash((args, tuple(kwargs.items())))
        except TypeError:
            return build(*args, **kwargs)
        return cached(*args, **kwargs)

    return call
