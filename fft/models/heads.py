"""The heads of a checkpoint by name: choosing one, and naming a new one."""

from collections.abc import Iterable

from fft.core.errors import InputError
from fft.core.naming import UNEMBED, names_from
from fft.core.tree import Params
from fft.models.files.heads import check_name
from fft.models.model import Checkpoint


def check_named(name: str, checkpoint: Checkpoint) -> None:
    """Check that the checkpoint has the head of --original-head. Raises: InputError if not."""
    if name not in checkpoint.heads:
        known = ", ".join(checkpoint.heads) or "none"
        raise InputError(f"--original-head {name}: the checkpoint's heads are: {known}")


def chosen_head(
    checkpoint: Checkpoint, requested: str | None, folder: str, purpose: str, language: bool = False
) -> str:
    """Return the name of the requested head, or of the checkpoint's classifier if None; the language head for a task
    that predicts tokens (`language`).

    Raises: InputError if the checkpoint in `folder` has no such head; `purpose` describes the head if it has no name.
    """
    if language:
        if requested not in (None, UNEMBED):
            raise InputError(f"a task that predicts tokens uses the language head, not {requested!r}: leave it out")
        return UNEMBED
    name = requested or checkpoint.primary
    if name not in checkpoint.heads:
        heads = ", ".join(checkpoint.heads) or "none"
        problem = f"{folder} has no head {name or purpose}; its heads are: {heads}"
        advice = "tune one with fft tune, or give a language task, which a causal language model needs no head for"
        raise InputError(problem if checkpoint.heads else f"{problem}: {advice}")
    return name


def with_heads(primary: str | None, heads: Iterable[str]) -> str:
    """Describe the heads of a written checkpoint: its classifier, and the heads stored in addition."""
    others = ", ".join(name for name in heads if name != primary)
    beside = f", beside it {others}" if others else ""
    return f"the head {primary} as its classifier{beside}" if primary else "no head"


def only_head(params: Params, head: str, name: str) -> Params:
    """Return the parameters with only one head, renamed to `name`, so that two checkpoints' trees have equal paths.

    The language head keeps its name, and its parameters, which may be the word embeddings.
    """
    if head == UNEMBED:
        return {path: tree for path, tree in params.items() if path != "heads"}
    return {**params, "heads": {name: params["heads"][head]}}


def unused_head(requested: str | None, default: str, taken: list[str]) -> str:
    """Return the requested name of a new head, or the first of default, default_2, default_3, … that is not taken.

    Raises: InputError if the requested name is taken or cannot be part of a parameter path.
    """
    if requested in taken:
        raise InputError(f"the checkpoint has a head named {requested!r} already; its heads are: {', '.join(taken)}")
    if requested is not None:
        check_name(requested)
        return requested
    return next(name for name in names_from(default) if name not in taken)
