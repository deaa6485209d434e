"""How far the predictions of two language models are apart, and what both write to the same prompts."""

import jax
import numpy as np

from fft.after.pair import Pair, ScoredPair
from fft.core.batch import Batch, weighted_sum
from fft.core.network import outputs_of
from fft.core.progress import announced
from fft.core.tree import Params
from fft.data.batches import eval_batches
from fft.data.kinds import KINDS
from fft.data.streams import EVAL_BATCH
from fft.evaluate.predict import predict
from fft.evaluate.written import samples
from fft.stats.intervals import Interval, interval
from fft.stats.metrics import METRICS
from fft.stats.records import ExampleRecord
from fft.tasks import Language

SHOWN = 5
"""prompts with the answers of both models"""


def divergence(pair: Pair, scores: ScoredPair) -> Interval | None:
    """Return the mean KL(base ‖ tuned) of the supervised tokens, in nats, with its interval; rows are resampled with
    all their tokens. None for a task that is not of a language kind, or that the base has no head for.
    """
    task, rows = scores.data.task, scores.data.splits["test"]
    if not isinstance(task, Language) or scores.before is None:
        return None
    model = pair.base.checkpoint.model

    def sums(both: Params, batch: Batch) -> jax.Array:
        base, tuned = (outputs_of(model, both[side], batch, read=(task.reads,)) for side in ("base", "tuned"))
        return jax.vmap(weighted_sum)(task.divergences(base, tuned, batch, 1.0), batch.weight)[:, None]

    both = {"base": pair.base.checkpoint.params, "tuned": pair.tuned.checkpoint.params}
    batches = eval_batches(rows, EVAL_BATCH, scores.data.lengths, scores.data.pad_id)
    program = announced(jax.jit(sums), "the divergence", scores.data.lengths)
    found = rows.summed(predict(program, both, batches, len(rows.ids)))[:, 0]
    return interval(METRICS["nats"], rows.example_targets(), np.asarray(found, np.float64))


def side_by_side(pair: Pair, scores: ScoredPair, max_new: int) -> list[ExampleRecord]:
    """Return the first SHOWN prompts of a task, with the expected answers and those of both models, of at most
    `max_new` tokens; [] for a task without prompts.
    """
    if not KINDS[scores.data.kind].prompts or scores.before is None:
        return []
    base, tuned = (samples(side.checkpoint, scores.data, SHOWN, max_new) for side in (pair.base, pair.tuned))
    return [
        ExampleRecord(one["row"], one["prompt"], None, one["expected"], one["answer"], other["answer"])
        for one, other in zip(base, tuned, strict=True)
    ]
