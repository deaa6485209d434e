"""Pseudo-texts: tokens of texts are masked and filled in by a masked language model, and the base answers to them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fft import models
from fft.core.batch import Inputs
from fft.core.errors import InputError
from fft.core.naming import counted
from fft.core.tree import Params
from fft.data import TrainBatches, eval_batches
from fft.data.streams import EVAL_BATCH
from fft.data.tokenize import Encoded, Tokenizer, first_difference, load_tokenizer, mask_id, special_ids
from fft.evaluate.teacher import base_part, read_rows
from fft.models import Checkpoint
from fft.models.files.filler import Filler
from fft.tasks import Task


class PseudoRows(NamedTuple):
    """A stream's rows after the filling in; rows that no step reads are left as they were, their logits 0."""

    ids: np.ndarray
    """int32 [N, T], padded to the longest"""
    logits: np.ndarray
    """the base's of the original head, [N, C]"""
    notes: tuple[str, ...]
    """how much was masked, and how much of it came out as another token; behind the notes on the filler's files"""


def find_filler(source: str | None, base: Path) -> Path:
    """The folder of the masked language model `source`, None: of the base itself.

    Raises: InputError where there is none, where it has no masked-language head, another vocabulary or no mask token.
    """
    try:
        folder = models.find_filler(base if source is None else source)
    except InputError as error:
        if source is not None:
            raise
        raise InputError(
            f"pseudo fills tokens in, and {error}. Give --pseudo.filler DIR, a masked language model with the same "
            "vocabulary, such as the checkpoint that this one was once tuned from"
        ) from None
    ours, theirs = load_tokenizer(base), load_tokenizer(folder)
    if different := first_difference(ours, theirs):
        number, token, other = different
        raise InputError(
            f"--pseudo.filler {source}: token {number} is {other!r} there and {token!r} in {base}; a filler must have "
            "the base's own vocabulary"
        )
    mask_id(theirs)
    return folder


def pseudo_rows(
    checkpoint: Checkpoint,
    kept: Task | None,
    batches: TrainBatches,
    steps: int,
    source: str | None,
    share: float,
    key: jax.Array,
    poll: Callable[[], None] = lambda: None,
) -> PseudoRows:
    """The rows of a stream that `steps` steps read, `share` of their tokens filled in, and the base's answers to them.

    `kept` is the original task. Raises: as `find_filler`; InputError for rows longer than the filler has positions.
    """
    filler = models.load_filler(find_filler(source, checkpoint.folder))
    tokenizer = load_tokenizer(filler.folder, filler.model.config.shape.vocab)
    seen = read_rows(batches, steps)
    drawn = filled(filler, tokenizer, batches, seen, share, key, poll)
    logits = base_part(checkpoint, kept, "logits", batches, steps, poll, drawn.encoded)
    ids = np.full((len(drawn.encoded.ids), max(batches.lengths)), batches.pad_id, np.int32)
    for row, tokens in enumerate(drawn.encoded.ids):
        ids[row, : len(tokens)] = tokens
    told = (
        f"pseudo: {counted(len(seen), 'text')} filled in by {filler.folder.name}: {drawn.masked} of their "
        f"{drawn.tokens} tokens masked, {drawn.changed} came out as others"
    )
    return PseudoRows(ids, logits, (*filler.notes, told))


class Filled(NamedTuple):
    """Rows with tokens filled in, and of the rows that were read: tokens, how many were masked, how many changed."""

    encoded: Encoded
    tokens: int
    masked: int
    changed: int


def filled(
    filler: Filler,
    tokenizer: Tokenizer,
    batches: TrainBatches,
    seen: np.ndarray,
    share: float,
    key: jax.Array,
    poll: Callable[[], None] = lambda: None,
) -> Filled:
    """The rows at `seen` with a share of their tokens drawn anew, all of a row at once given the others.

    Of a row's n tokens that are not special max(1, round(share · n)) are masked, drawn without replacement; what is put
    there is drawn from the softmax of the filler's logits over all tokens that are not special. Every row has draws of
    its own, by `key` and its position.
    """
    special, mask = special_ids(tokenizer), mask_id(tokenizer)
    vocabulary = set(tokenizer.vocabulary.values())
    allowed = np.array([i in vocabulary and i not in special for i in range(filler.model.config.shape.vocab)])
    draw = jax.jit(_draw, static_argnums=0)
    ids, rows, masked = list(batches.encoded.ids), batches.encoded.take(seen), 0
    for batch, picked in eval_batches(rows, EVAL_BATCH, batches.lengths, batches.pad_id):
        poll()
        chosen = [_places(rows.ids[at], share, allowed, key, int(seen[at])) for at in picked]
        width = max(1, round(share * batch.ids.shape[1]))
        places, masked_ids = np.zeros((EVAL_BATCH, width), np.int32), np.array(batch.ids)
        for row, found in enumerate(chosen):
            places[row, : len(found)] = found
            masked_ids[row, found] = mask
        numbers = np.resize(seen[picked], EVAL_BATCH).astype(np.int32)
        inputs = Inputs(masked_ids, batch.mask, batch.types)
        tokens = np.asarray(draw(filler.logits, filler.params, inputs, places, allowed, numbers, key))
        for at, found, new in zip(seen[picked], chosen, tokens, strict=False):
            ids[at] = ids[at].copy()
            ids[at][found] = new[: len(found)]
            masked += len(found)
    changed = sum(int((ids[at] != batches.encoded.ids[at]).sum()) for at in seen)
    encoded = batches.encoded._replace(ids=ids)
    return Filled(encoded, sum(len(ids[at]) for at in seen), masked, changed)


def _places(ids: np.ndarray, share: float, allowed: np.ndarray, key: jax.Array, row: int) -> np.ndarray:
    """The places of a row that are masked, ascending."""
    there = np.flatnonzero(allowed[ids])
    count = min(len(there), max(1, round(share * len(there))))
    generator = np.random.default_rng([*np.asarray(jax.random.key_data(key)).tolist(), row])
    return np.sort(generator.permutation(there)[:count])


def _draw(
    logits_of: Callable[[Params, Inputs, jax.Array], jax.Array],
    params: Params,
    batch: Inputs,
    places: jax.Array,
    allowed: jax.Array,
    numbers: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """The tokens [B, K] drawn for the places of a batch."""
    logits = jnp.where(allowed, logits_of(params, batch, places), -jnp.inf)
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
    return jax.vmap(jax.random.categorical)(keys, logits)
