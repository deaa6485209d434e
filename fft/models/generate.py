"""The compiled programs of text generation: the prompts in one pass, then one token of every row at a time.

Letters: B rows, T tokens of the padded prompts, N new tokens at most, V vocabulary, E ids that end a text.
Reference: Holtzman et al. (top-p), arXiv 1904.09751.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp

from fft.core.batch import Array
from fft.core.programs import shared
from fft.core.tree import Params
from fft.models.cache import Cache, empty
from fft.models.decoder import DecoderShape
from fft.models.layers import MASKED
from fft.models.model import Model
from fft.models.prompt import places_of

NOTHING = -1
"""in answers: no token, as the row has ended"""


class Draw(NamedTuple):
    """How the next token is drawn from the logits; `temperature` and `top_p` are read where tokens are sampled."""

    keys: jax.Array
    """random keys [B], one a row, so that a row's draws do not depend on the other rows"""
    temperature: Array
    """float32 [], positive"""
    top_p: Array
    """float32 []"""
    stops: Array
    """int32 [E], the ids that end a text"""


class Progress(NamedTuple):
    """Answers in the making."""

    cache: Cache
    answers: jax.Array
    """int32 [B, N], NOTHING where there is no token yet"""
    last: jax.Array
    """int32 [B], the latest token of each row, which the model has not read"""
    done: jax.Array
    """bool [B], whether the row has ended"""
    step: jax.Array
    """int32 [], the number of tokens drawn"""


class Programs(NamedTuple):
    """Two compiled functions, one program each for every (B, T, N)."""

    prefill: Callable[..., Progress]
    """prefill(params, ids [B, T], mask [B, T], done [B], draw, new=N): read left-padded prompts, draw one token"""
    finish: Callable[[Params, Progress, Draw], Progress]
    """finish(params, progress, draw): draw the others, until all rows have ended; `progress` is consumed"""


@shared
def programs(model: Model, sampled: bool) -> Programs:
    """Return the programs of a causal language model; without `sampled` every token is the most probable one."""
    extend = model.extend
    assert extend is not None  # checked with the checkpoint
    shape = cast("DecoderShape", model.config.shape)

    def drawn(params: Params, states: jax.Array, progress: Progress, draw: Draw) -> Progress:
        """Draw one token of every row from the states [B, D] of the tokens before it."""
        logits = model.unembed(params, states)
        if sampled:
            keys = jax.vmap(jax.random.fold_in, (0, None))(draw.keys, progress.step)
            tokens = jax.vmap(jax.random.categorical)(keys, shaped(logits, draw.temperature, draw.top_p))
        else:
            tokens = jnp.argmax(logits, axis=-1)
        tokens = tokens.astype(jnp.int32)
        column = jnp.where(progress.done, NOTHING, tokens)[:, None]
        answers = jax.lax.dynamic_update_slice_in_dim(progress.answers, column, progress.step, axis=1)
        done = progress.done | jnp.isin(tokens, draw.stops)
        return Progress(progress.cache, answers, tokens, done, progress.step + 1)

    @partial(jax.jit, static_argnames="new")
    def prefill(params: Params, ids: Array, mask: Array, done: Array, draw: Draw, *, new: int) -> Progress:
        rows, length = ids.shape
        slots = places_of(params) + length + new - 1  # the last new token is never read
        cache = empty(shape, model.computation.compute, rows, slots)
        tokens, cache = extend(params, cache, ids, mask, first=True)
        last, answers = jnp.zeros(rows, jnp.int32), jnp.full((rows, new), NOTHING)
        begun = Progress(cache, answers, last, jnp.asarray(done), jnp.zeros((), jnp.int32))
        return drawn(params, tokens[:, -1], begun, draw)

    @partial(jax.jit, donate_argnums=1)
    def finish(params: Params, progress: Progress, draw: Draw) -> Progress:
        def unfinished(progress: Progress) -> jax.Array:
            return (progress.step < progress.answers.shape[1]) & ~jnp.all(progress.done)

        def one_more(progress: Progress) -> Progress:
            ids = progress.last[:, None]
            tokens, cache = extend(params, progress.cache, ids, jnp.ones_like(ids))
            return drawn(params, tokens[:, 0], progress._replace(cache=cache), draw)

        return jax.lax.while_loop(unfinished, one_more, progress)

    return Programs(prefill, finish)


def shaped(logits: jax.Array, temperature: Array, top_p: Array) -> jax.Array:
    """Return the logits [..., V] of the distribution that tokens are sampled from.

    softmax(logits / temperature), and for top_p < 1 only its nucleus: the most probable tokens, as many as it takes for
    their sum to reach top_p.
    """
    logits = (logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature
    return jax.lax.cond(top_p < 1, lambda: nucleus(logits, top_p), lambda: logits)


def nucleus(logits: jax.Array, top_p: Array) -> jax.Array:
    """Return the logits [..., V] with MASKED for every token before which others have a mass of top_p or more."""
    order = jnp.argsort(-logits, axis=-1)
    probabilities = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = jnp.put_along_axis(jnp.zeros(logits.shape, bool), order, before < top_p, axis=-1, inplace=False)
    return jnp.where(kept, logits, MASKED)
