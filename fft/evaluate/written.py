"""Answers that a model writes to the prompts of a batch, and whether they are right.

Letters: B rows, T tokens, N new tokens at most.
"""

from collections.abc import Sequence

import jax
import numpy as np

from fft.core.batch import NO_TARGET, Batch
from fft.core.errors import InputError
from fft.core.network import outputs_of
from fft.core.progress import announced
from fft.core.tree import Params
from fft.data.batches import bucket_lengths, eval_batches
from fft.data.encoded import Encoded
from fft.data.kinds import KINDS
from fft.data.kinds.answer import text_of, writer_of
from fft.data.settings import Data
from fft.data.streams import EVAL_BATCH
from fft.data.task_data import TaskData
from fft.data.tokenize import Tokenizer, load_tokenizer
from fft.evaluate.generate import LENGTH_STEP, check_room, left_padded
from fft.evaluate.predict import predict
from fft.models.generate import NOTHING, Draw, programs
from fft.models.model import Checkpoint, Model
from fft.models.prompt import places_of
from fft.stats.matching import is_right
from fft.tasks import Answers, Language
from fft.tasks.answers import RIGHT, TRUNCATED, WRITTEN, Writer


class Writing:
    """f(params, batch) -> the scores float64 [B, WRITTEN + N] of fft.tasks.answers, from the most probable answers."""

    def __init__(self, model: Model, task: Answers, lengths: Sequence[int] = ()) -> None:
        if model.extend is None:
            raise InputError(
                f"the {model.family} model writes no texts, so an answer task cannot be scored: give --task.kind "
                "completion (--original.kind, --new.kind), or a causal language model"
            )
        assert task.writer is not None  # the kind of the data has set it
        self.model, self.task, self.writer = model, task, task.writer
        self._tokenizer = _reader(task.writer)

        def nll(params: Params, batch: Batch) -> jax.Array:
            return task.score(outputs_of(model, params, batch, read=(task.reads,)), batch)

        self._forced = announced(jax.jit(nll), "the scoring", lengths)

    def __call__(self, params: Params, batch: Batch) -> np.ndarray:
        targets, weight = np.asarray(batch.targets), np.asarray(batch.weight)
        real = weight.max(axis=1) > 0
        new = self.answers(params, [prompt_of(batch, row) for row in range(len(real))], real, batch.ids.shape[1])
        counts = np.maximum((weight > 0).sum(axis=1), 1)
        nll = np.asarray(self._forced(params, batch), np.float64)[:, 0] / counts
        scores = np.concatenate([np.zeros((len(new), WRITTEN)), new], axis=1)
        scores[:, WRITTEN - 1] = nll
        for row in np.flatnonzero(real):
            ids = new[row][new[row] != NOTHING]
            expected = text_of(self._tokenizer, targets[row][weight[row] > 0])
            scores[row, RIGHT] = is_right(self.task.metric, text_of(self._tokenizer, ids), expected)
            scores[row, TRUNCATED] = not len(ids) or ids[-1] not in self.writer.stops
        return scores

    def answers(self, params: Params, prompts: Sequence[np.ndarray], real: np.ndarray, length: int) -> np.ndarray:
        """Return the new ids int32 [B, N] to prompts [T_i] each, NOTHING behind their end and for rows not `real`."""
        for prompt in prompts:
            check_room(self.model, len(prompt), self.writer.max_new, "a prompt", places_of(params))
        run = programs(self.model, False)
        ids, mask = left_padded(prompts, -(-length // LENGTH_STEP) * LENGTH_STEP)
        one = np.ones((), np.float32)
        keys = jax.random.split(jax.random.key(0), len(prompts))  # not read, as nothing is sampled
        draw = Draw(keys, one, one, np.array(self.writer.stops, np.int32))
        begun = run.prefill(params, ids, mask, ~real, draw, new=self.writer.max_new)
        return np.asarray(run.finish(params, begun, draw).answers)


def prompt_of(batch: Batch, row: int) -> np.ndarray:
    """Return the ids of a row up to the token that predicts the first one of its answer, int32 [T]."""
    assert batch.places is not None  # rows of an answer task have them
    return np.asarray(batch.ids)[row, : int(np.asarray(batch.places)[row, 0]) + 1]


def told(task: Answers, rows: Encoded, scores: np.ndarray) -> list[dict]:
    """Return {"row", "prompt", "expected", "answer", "right", "truncated"} for every row, from its score; the prompt is
    shown with its special tokens.
    """
    assert task.writer is not None and rows.targets is not None
    tokenizer, lines = _reader(task.writer), []
    for number, ids, targets, score in zip(rows.numbers, rows.ids, rows.targets, scores, strict=True):
        new = score[WRITTEN:].astype(np.int64)
        begin = int(np.flatnonzero(targets >= 0)[0])
        end = begin + int(np.argmin(np.append(targets[begin:], NO_TARGET) >= 0))  # of several turns only the first
        lines.append(
            {
                "row": int(number),
                "prompt": tokenizer.backend.decode(ids[: begin + 1].tolist(), skip_special_tokens=False),
                "expected": text_of(tokenizer, targets[begin:end]),
                "answer": text_of(tokenizer, new[new != NOTHING]),
                "right": bool(score[RIGHT]),
                "truncated": bool(score[TRUNCATED]),
            }
        )
    return lines


def samples(checkpoint: Checkpoint, data: TaskData, count: int, max_new: int = Data.max_new) -> list[dict]:
    """Return `told` for the first `count` test rows of a task with prompts: what the model writes to each of them, at
    most `max_new` tokens, of an answer task as many as its own.

    Rows so long that the model has no positions left for an answer are passed over. Answers that no metric compares are
    counted as in `exact_match`. Raises: InputError for a task without prompts.
    """
    task, rows = data.task, data.splits["test"]
    if not KINDS[data.kind].prompts:
        raise InputError(f"--samples: a task of the kind {data.kind} has no prompts to answer: leave it out")
    assert isinstance(task, Language)
    if not isinstance(task, Answers):
        task = Answers(task.name, writer=writer_of(checkpoint, max_new))
    begins = np.arange(len(rows.ids)) if rows.example is None else np.unique(rows.example, return_index=True)[1]
    assert task.writer is not None  # an answer task is bound to its checkpoint
    room = checkpoint.model.config.max_positions - task.writer.max_new
    chosen = rows.take(np.array([at for at in begins if len(rows.ids[at]) <= room][:count], np.int64))
    if not len(chosen.ids):
        return []
    lengths = bucket_lengths(chosen.lengths())
    batches = eval_batches(chosen, EVAL_BATCH, lengths, data.pad_id)
    writing = Writing(checkpoint.model, task, lengths)
    return told(task, chosen, predict(writing, checkpoint.params, batches, len(chosen.ids)))


def _reader(writer: Writer) -> Tokenizer:
    return load_tokenizer(writer.folder, writer.vocab_size)
