"""The heads of a checkpoint by their names: which one is meant, and what a new one is called."""

import itertools
from collections.abc import Iterable

from fft.core.errors import InputError
from fft.core.tree import Params
from fft.models.files.heads import check_name
from fft.models.model import Checkpoint


def check_named(name: str, checkpoint: Checkpoint) -> None:
    """Refuse what --original-head names where the checkpoint has no such head."""
    if name not in checkpoint.heads:
        known = ", ".join(checkpoint.heads) or "none"
        raise InputError(f"--original-head {name}: the checkpoint's heads are: {known}")


def chosen_head(checkpoint: Checkpoint, wanted: str | None, folder: str, purpose: str) -> str:
    """The head asked for, or the checkpoint's classifier; InputError where FOLDER's checkpoint does not have it."""
    name = wanted or checkpoint.primary
    if name not in checkpoint.heads:
        heads = ", ".join(checkpoint.heads) or "none"
        raise InputError(f"{folder} has no head {name or purpose}; its heads are: {heads}")
    return name


def with_heads(primary: str | None, heads: Iterable[str]) -> str:
    """What a checkpoint that is written has as its classifier, and the heads beside it, in words."""
    others = ", ".join(name for name in heads if name != primary)
    beside = f", beside it {others}" if others else ""
    return f"the head {primary} as its classifier{beside}" if primary else "no head"


def only_head(params: Params, head: str, name: str) -> Params:
    """The parameters with one head alone, under another name: two checkpoints' trees are then alike."""
    return {**params, "heads": {name: params["heads"][head]}}


def unused_head(given: str | None, default: str, taken: list[str]) -> str:
    """The name given for a new head, or the first of default, default_2, default_3, … that is not taken."""
    if given in taken:
        raise InputError(f"the checkpoint has a head named {given!r} already; its heads are: {', '.join(taken)}")
    if given is not None:
        check_name(given)
        return given
    numbered = (f"{default}_{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([default], numbered) if name not in taken)
