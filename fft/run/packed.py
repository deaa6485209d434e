"""Which streams of a run are packed, several texts in a row, and into how many tokens."""

from collections.abc import Iterator, Mapping

import jax
import numpy as np

from fft.core.batch import Batch, States
from fft.core.errors import InputError
from fft.core.tree import Params
from fft.data import Encoded, PackedBatches, length_of
from fft.data.batches import Batches
from fft.data.packing import Packs, default_capacity
from fft.methods import Method
from fft.models import Checkpoint
from fft.run.accepted import Accepted


def packed_streams(accepted: Accepted) -> dict[str, int]:
    """Return the capacity in tokens of every stream whose rows are packed; {} without --pack.

    A stream is packed if its tokens are predicted and no method has a loss of its whole rows. Only the new task's has
    to be. Raises: InputError if it cannot be.
    """
    experiment, streams = accepted.experiment, accepted.streams
    if not experiment.optim.pack:
        return {}
    names = ("new", *experiment.method.streams)
    if reason := _reason(accepted, "new"):
        raise InputError(f"--pack: {reason}: leave it out")
    config = accepted.checkpoint.model.config

    def capacity(name: str) -> int:
        data = streams[name]
        lengths = data.splits["train"].lengths()
        return experiment.max_length or default_capacity(lengths, length_of(None, config, data.kind))

    return {name: capacity(name) for name in names if not _reason(accepted, name)}


def _reason(accepted: Accepted, name: str) -> str:
    """Return why the rows of a stream cannot be packed; "" if they can."""
    data, method, original = accepted.streams[name], accepted.experiment.method, accepted.original_task
    if data.splits["train"].targets is None:
        return f"the {name} task is {data.task.kind}, and only the rows of language tasks can be packed"
    if name in method.row_losses:
        return f"{method.row_losses[name]} compares whole rows of the {name} task, and a packed one holds several texts"
    if name in method.loss_streams and original is not None and original.reads == "pooled":
        return (
            f"{method.label} has one prediction of the head {original.name!r} for each row of the {name} task, and a "
            "packed one holds several texts"
        )
    return ""


def refuse_packed(method: Method, base: Checkpoint, theta: Params) -> None:
    """Refuse packed rows of a model, with the method's parameters merged, that would read them as one text.

    The base and `theta` may be shapes alone; nothing is computed. Raises: InputError.
    """
    one = np.ones((1, 1), np.int32)
    row = Batch(0 * one, one, 0 * one, one, one.astype(np.float32), one[0], None, 0 * one, one)

    def states(base_params: Params, theta: Params, row: Batch) -> States:
        return base.model.states(method.merge(base_params, theta), row, read=("tokens",))

    jax.eval_shape(states, base.params, theta, row)


def rows_of_an_epoch(rows: Encoded, seed: int, capacity: int | None) -> int:
    """Return the number of rows in a pass over them, packed into `capacity` tokens, or as they are for None."""
    return len(rows.ids) if capacity is None else len(Packs(rows.lengths(), capacity, seed))


def packing_notes(batches: Mapping[str, Batches]) -> Iterator[str]:
    """Yield a note for each stream that is packed."""
    for name, stream in batches.items():
        if isinstance(stream, PackedBatches):
            yield (
                f"{name}: {len(stream.encoded.ids):,} texts packed into {len(stream.packs):,} rows of "
                f"{stream.lengths[0]:,} tokens, {100 * stream.fill:.0f} % of them filled"
            )
