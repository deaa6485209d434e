"""Texts that a causal language model writes: prompts to padded batches, batches to texts."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.errors import InputError
from fft.core.naming import counted
from fft.core.progress import doing
from fft.core.seeding import key_for
from fft.data.batches import bucket_lengths
from fft.data.prompts import Prompt, encode_prompt, named_ids
from fft.data.tokenize import Tokenizer, load_tokenizer, refuse_unknown
from fft.evaluate.settings import Generation
from fft.models.decoder import DecoderShape
from fft.models.generate import NOTHING, Draw, programs
from fft.models.model import Checkpoint, Model
from fft.models.prompt import places_of

LENGTH_STEP = 16
"""padded lengths of prompts are multiples of this, so that other prompts find the programs compiled"""


class Generated(NamedTuple):
    """Generated texts, those of a prompt together, in the order of the prompts."""

    texts: list[str]
    """only what is new; special tokens are left out"""
    ids: list[list[int]]
    """the new tokens, with the one that ended the text"""


def generate(checkpoint: Checkpoint, prompts: Sequence[Prompt], settings: Generation) -> Generated:
    """Continue texts and answer conversations, `settings.n` times each.

    A text depends on the seed, its prompt, the place of its prompt among the prompts and its number among the samples,
    not on the batch it is in.
    Raises: InputError for a model without a language head, a prompt that cannot be encoded or has ids that the
    embedding table lacks, and one that leaves no room for `settings.max_new` tokens.
    """
    if checkpoint.model.extend is None or not checkpoint.language:
        raise InputError(
            f"the {checkpoint.model.family} model of {checkpoint.folder} has no language head to write texts with: "
            "load a causal language model with fft.load(folder, language=True)"
        )
    tokenizer = load_tokenizer(checkpoint.folder, checkpoint.model.config.vocab_size)
    bos = next(iter(_named(checkpoint, "bos_token_id")), None)
    encoded = [encode_prompt(tokenizer, prompt, bos) for prompt in prompts]
    for ids, prompt in zip(encoded, prompts, strict=True):
        refuse_unknown(prompt.where, ids, tokenizer, checkpoint.model.config.vocab_size)
        check_room(checkpoint.model, len(ids), settings.max_new, prompt.where, places_of(checkpoint.params))
    answers = _answers(checkpoint, encoded, settings)
    texts = [
        decoded(tokenizer, encoded[at // settings.n], ids, isinstance(prompts[at // settings.n].content, str))
        for at, ids in enumerate(answers)
    ]
    return Generated(texts, answers)


def _named(checkpoint: Checkpoint, field: str) -> tuple[int, ...]:
    return named_ids(checkpoint.folder, checkpoint.raw_config, checkpoint.model.config.vocab_size, field)


def check_room(model: Model, tokens: int, new: int, where: str, places: int = 0) -> None:
    """Check that the model has positions for a prompt of so many `tokens` and `new` ones, after `places` virtual ones.

    Raises: InputError for texts that are too long, and for those during which the rotation of longrope would change.
    """
    most = model.config.max_positions - places
    if tokens + new > most:
        advice = f"give --max-new {most - tokens} or less, or shorten the prompt" if tokens < most else "shorten it"
        raise InputError(
            f"{where} has {counted(tokens, 'token')}, which with {new} new ones are more than the {most} positions of "
            f"the model{f' beside {places} virtual tokens' if places else ''}: {advice}"
        )
    for layer in cast("DecoderShape", model.config.shape).attention:
        rope = layer.rope
        if not (rope and rope.rope_type == "longrope"):
            continue
        border = rope.original_positions - places
        if (tokens <= border or places) and tokens + new > border:
            fewer = f"--max-new {border - tokens} or less, or " if tokens < border else ""
            raise InputError(
                f"{where} has {counted(tokens, 'token')}, and with {new} new ones it crosses the {border} positions at "
                f"which the longrope rotation of the model changes: give {fewer}a {'shorter' if places else 'longer'} "
                "prompt"
            )


def decoded(tokenizer: Tokenizer, prompt: np.ndarray, new: Sequence[int], continues: bool) -> str:
    """Return the text of the new tokens; if it `continues` the prompt, with the space that may be between the two.

    Some tokenizers write no space before the first token of a text.
    """
    if continues:
        before, whole = (tokenizer.backend.decode([*prompt.tolist(), *more]) for more in ((), new))
        if whole.startswith(before):
            return whole[len(before) :]
    return tokenizer.backend.decode(list(new))


def _answers(checkpoint: Checkpoint, encoded: Sequence[np.ndarray], settings: Generation) -> list[list[int]]:
    """Return the new ids of all samples, in order."""
    tiny = float(np.finfo(np.float32).tiny)
    run = programs(checkpoint.model, settings.temperature >= tiny)
    key, stops = key_for(settings.seed, "generate"), np.array(_named(checkpoint, "eos_token_id"), np.int32)
    answers: list[list[int]] = [[] for _ in range(len(encoded) * settings.n)]
    batches = list(_batches([len(encoded[at // settings.n]) for at in range(len(answers))], settings.batch_size))
    with doing("generating", total=len(batches)) as work:
        for length, rows, picked in batches:
            full = np.concatenate([picked, np.repeat(picked[-1:], rows - len(picked))])
            ids, mask = left_padded([encoded[at // settings.n] for at in full], length)
            draw = Draw(
                _keys(key, full // settings.n, full % settings.n),
                np.array(settings.temperature, np.float32),
                np.array(settings.top_p, np.float32),
                stops,
            )
            done = np.arange(rows) >= len(picked)
            begun = run.prefill(checkpoint.params, ids, mask, done, draw, new=settings.max_new)
            made = np.asarray(run.finish(checkpoint.params, begun, draw).answers)
            for at, row in zip(picked, made, strict=False):
                answers[at] = row[row != NOTHING].tolist()
            work.advance()
    return answers


@jax.jit
def _keys(key: jax.Array, prompts: np.ndarray, samples: np.ndarray) -> jax.Array:
    """Return the random key of each row, [B], by the number of its prompt and of the sample."""
    return jax.vmap(lambda prompt, sample: jax.random.fold_in(jax.random.fold_in(key, prompt), sample))(
        jnp.asarray(prompts), jnp.asarray(samples)
    )


def _batches(lengths: Sequence[int], batch_size: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (T, B, the places of the rows) for rows of these lengths: of few padded lengths T, the shortest first."""
    rounded = -(-np.asarray(lengths) // LENGTH_STEP) * LENGTH_STEP
    buckets = bucket_lengths(rounded, steps=len(lengths) / batch_size)
    bucket = np.searchsorted(buckets, rounded)
    for number, length in enumerate(buckets):
        places = np.flatnonzero(bucket == number)
        rows = min(batch_size, len(places))
        for start in range(0, len(places), rows):
            yield length, rows, places[start : start + rows]


def left_padded(prompts: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and mask int32 [B, T] of prompts that end at the same place."""
    ids = np.zeros((len(prompts), length), np.int32)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :], mask[row, length - len(prompt) :] = prompt, 1
    return ids, mask
