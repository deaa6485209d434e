"""Pseudo-texts: a masked language model fills in masked tokens of texts, and the base's logits on them are computed."""

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
from fft.data import eval_batches
from fft.data.batches import Batches
from fft.data.encoded import Encoded
from fft.data.streams import EVAL_BATCH
from fft.data.tokenize import Tokenizer, first_difference, load_tokenizer, mask_id, special_ids
from fft.evaluate.teacher import base_part, read_rows
from fft.models import Checkpoint, Model
from fft.tasks import Task


class PseudoRows(NamedTuple):
    """A stream's rows with tokens filled in; rows that no step reads are unchanged and have logits 0."""

    ids: np.ndarray
    """int32 [N, T], padded to the longest"""
    logits: np.ndarray
    """of the base's original head, [N, C]"""
    notes: tuple[str, ...]
    """for the run's record: those on the filler's files, then how many tokens were masked and changed"""


def find_filler(source: str | None, base: Path) -> Path:
    """Return the folder of the masked language model `source`; None means the base itself.

    Raises: InputError for a model that is missing, has no masked-language head, another vocabulary or no mask token.
    """
    try:
        folder = models.find_masked(base if source is None else source)
    except InputError as error:
        if source is not None:
            raise
        raise InputError(
            f"pseudo needs a masked language model, and {error}. Give --pseudo.filler DIR, one with the same "
            "vocabulary, such as the checkpoint that this one was tuned from"
        ) from None
    ours, theirs = load_tokenizer(base), load_tokenizer(folder)
    if different := first_difference(ours, theirs):
        number, token, other = different
        raise InputError(
            f"--pseudo.filler {source} has another vocabulary: token {number} is {other!r} there and {token!r} in "
            f"{base}. Give a masked language model with the base's own vocabulary"
        )
    mask_id(theirs)
    return folder


def pseudo_rows(
    checkpoint: Checkpoint,
    original_task: Task | None,
    batches: Batches,
    steps: int,
    source: str | None,
    share: float,
    key: jax.Array,
    poll: Callable[[], None] = lambda: None,
) -> PseudoRows:
    """Fill in a `share` of the tokens of the rows that `steps` steps read, and compute the base's logits on them.

    Raises: as `find_filler`; InputError for rows longer than the filler has positions.
    """
    filler = models.load(find_filler(source, checkpoint.folder), language=True)
    tokenizer = load_tokenizer(filler.folder, filler.model.config.shape.vocab)
    seen = read_rows(batches, steps)
    drawn = filled(filler, tokenizer, batches, seen, share, key, poll)
    logits = base_part(checkpoint, original_task, "logits", batches, steps, poll, drawn.encoded)
    ids = np.full((len(drawn.encoded.ids), max(batches.lengths)), batches.pad_id, np.int32)
    for row, tokens in enumerate(drawn.encoded.ids):
        ids[row, : len(tokens)] = tokens
    note = (
        f"pseudo: {counted(len(seen), 'text')} filled in by {filler.folder.name}: {drawn.masked} of their "
        f"{drawn.tokens} tokens masked, {drawn.changed} changed"
    )
    return PseudoRows(ids, logits, (*filler.notes, note))


class Filled(NamedTuple):
    """Rows with tokens filled in; over the rows that are read, the number of tokens, of masked and of changed ones."""

    encoded: Encoded
    tokens: int
    masked: int
    changed: int


def filled(
    filler: Checkpoint,
    tokenizer: Tokenizer,
    batches: Batches,
    seen: np.ndarray,
    share: float,
    key: jax.Array,
    poll: Callable[[], None] = lambda: None,
) -> Filled:
    """Return all rows, those at `seen` with a share of their tokens resampled.

    Of a row's n non-special tokens max(1, round(share · n)) are masked, drawn without replacement. Their replacements
    are sampled in one pass, independently of each other, from the softmax of the filler's logits over all non-special
    tokens. Each row has random draws of its own, determined by `key` and its position.
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
        for row, positions in enumerate(chosen):
            places[row, : len(positions)] = positions
            masked_ids[row, positions] = mask
        numbers = np.resize(seen[picked], EVAL_BATCH).astype(np.int32)
        inputs = Inputs(masked_ids, batch.mask, batch.types)
        tokens = np.asarray(draw(filler.model, filler.params, inputs, places, allowed, numbers, key))
        for at, positions, new in zip(seen[picked], chosen, tokens, strict=False):
            ids[at] = ids[at].copy()
            ids[at][positions] = new[: len(positions)]
            masked += len(positions)
    changed = sum(int((ids[at] != batches.encoded.ids[at]).sum()) for at in seen)
    encoded = batches.encoded._replace(ids=ids)
    return Filled(encoded, sum(len(ids[at]) for at in seen), masked, changed)


def _places(ids: np.ndarray, share: float, allowed: np.ndarray, key: jax.Array, row: int) -> np.ndarray:
    """Return the positions of a row to mask, ascending."""
    maskable = np.flatnonzero(allowed[ids])
    count = min(len(maskable), max(1, round(share * len(maskable))))
    generator = np.random.default_rng([*np.asarray(jax.random.key_data(key)).tolist(), row])
    return np.sort(generator.permutation(maskable)[:count])


def _draw(
    model: Model,
    params: Params,
    batch: Inputs,
    places: jax.Array,
    allowed: jax.Array,
    numbers: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Sample tokens [B, K] for the masked `places` [B, K] of a batch."""
    tokens = model.states(params, batch, read=("tokens",)).tokens
    states = jnp.take_along_axis(jnp.asarray(tokens), places[..., None], axis=1)
    logits = jnp.where(allowed, model.unembed(params, states), -jnp.inf)
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
    return jax.vmap(jax.random.categorical)(keys, logits)
