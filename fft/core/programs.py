"""Compiled programs that outlive a run: what is made of equal settings is traced and compiled once a process."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Made = TypeVar("Made")
MOST = 8
"""programs of one sort that are held, each for all shapes that it was called with"""


def shared(make: Callable[P, Made]) -> Callable[P, Made]:
    """`make`, a function that builds a jitted one, called once for equal arguments, so that the runs of a sweep, the
    stages of a sequence and the seeds of an ablation share their programs.

    Arguments that cannot be hashed are never shared.
    """
    cached = lru_cache(MOST, typed=True)(make)  # two models may be NamedTuples of equal fields

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> Made:
        try:
            hash((args, tuple(kwargs.items())))
        except TypeError:
            return make(*args, **kwargs)
        return cached(*args, **kwargs)

    return call
