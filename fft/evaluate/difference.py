"""How far two models that should be one differ in their outputs: the largest difference, KL divergence, flipped top-1.

Letters: B texts, T tokens, N compared places, C outputs (labels, or the tokens of the vocabulary).
"""

from typing import NamedTuple

import jax
import numpy as np

from fft import models
from fft.core.batch import Inputs
from fft.core.computation import PRECISE
from fft.core.errors import InputError
from fft.core.naming import counted
from fft.core.tree import Params
from fft.data.tokenize import load_tokenizer
from fft.models import Checkpoint

SENTENCES = (
    "The train to the coast leaves at nine and arrives before noon.",
    "She opened the window because the room had become too warm.",
    "Water boils at a lower temperature on a high mountain.",
    "I would not recommend this film to anyone who likes a good story.",
    "The committee will publish its report in the spring, a year late.",
    "def mean(values): return sum(values) / len(values)",
    "What is the capital of France, and which river runs through it?",
    "After the long winter, the first apples of the year tasted wonderful.",
)
"""the texts that are compared where no others are given"""
DRAWN_TOKENS = 16


class Difference(NamedTuple):
    """How far the outputs of a second model are from those of a first one, at N places."""

    largest: float
    """the largest absolute difference of two outputs"""
    scale: float
    """the largest absolute output of the first model"""
    kl: float | None
    """the mean over the places of KL(p‖q) in nats, the distribution p of the first model and q of the second; None if
    the outputs are no logits"""
    flipped: int | None
    """the number of places where the most probable output is another one; None as above"""
    places: int
    """N"""
    where: str
    """what the places are, in words"""

    def sentence(self) -> str:
        """Return the figures as a part of a sentence."""
        size = f"by at most {self.largest:.2g} (the largest is {self.scale:.2g})"
        if self.kl is None:
            return f"the outputs {size} at {self.where}"
        return (
            f"the logits {size}, KL divergence {self.kl:.2g} nats, {self.flipped} of {self.places} top-1 flipped, at "
            f"{self.where}"
        )


def difference(first: Checkpoint, second: Checkpoint, head: str | None) -> Difference:
    """Return the difference of two checkpoints of one family on SENTENCES, by the tokenizer of the first.

    The outputs are the logits [B, C] of `head`; without one those of the language head at every token [N, C], or, if it
    was not loaded, the pooled states [B, D]. Both are computed in float32, whatever their own computation.
    """
    first, second = (models.computed(checkpoint, PRECISE) for checkpoint in (first, second))
    batch, texts = compared_texts(first)
    p, q = (outputs_at(checkpoint, head, batch).astype(np.float64) for checkpoint in (first, second))
    largest, scale = float(np.abs(p - q).max()), float(np.abs(p).max())
    tokens = head is None and first.language
    where = f"every token of {texts}" if tokens else texts
    if not (tokens or (head is not None and p.shape[1] > 1)):
        return Difference(largest, scale, None, None, len(p), where)
    log_p, log_q = log_softmax(p), log_softmax(q)
    kl = float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1)))
    flipped = int(np.sum(p.argmax(axis=1) != q.argmax(axis=1)))
    return Difference(largest, scale, max(kl, 0.0), flipped, len(p), where)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the log probabilities of logits [N, C] in their own precision."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def outputs_at(checkpoint: Checkpoint, head: str | None, batch: Inputs) -> np.ndarray:
    """Return what `difference` compares, [N, C]."""
    model, params = checkpoint.model, checkpoint.params
    if head is None and checkpoint.language:

        def logits(params: Params, batch: Inputs) -> jax.Array:
            tokens = model.states(params, batch, read=("tokens",)).tokens
            assert tokens is not None
            return model.unembed(params, tokens)

        return np.asarray(jax.jit(logits)(params, batch))[batch.mask == 1]
    pooled = jax.jit(model.states)(params, batch).pooled
    assert pooled is not None
    return np.asarray(pooled if head is None else model.readout(params, head, pooled))


def compared_texts(checkpoint: Checkpoint) -> tuple[Inputs, str]:
    """Return SENTENCES as a batch, padded on the right, and what they are in words.

    Without a tokenizer in the checkpoint's folder the rows are ids drawn evenly from the vocabulary.
    """
    config = checkpoint.model.config
    try:
        tokenizer = load_tokenizer(checkpoint.folder, config.vocab_size)
        rows = [tokenizer.backend.encode(text).ids[: config.max_positions] for text in SENTENCES]
        pad, texts = tokenizer.pad_id, counted(len(rows), "built-in sentence")
    except InputError:
        rng, tokens = np.random.default_rng(0), min(DRAWN_TOKENS, config.max_positions)
        rows = rng.integers(0, config.vocab_size, (len(SENTENCES), tokens)).tolist()
        pad, texts = 0, f"{counted(len(rows), 'row')} of random tokens, as there is no tokenizer"
    rows = [ids for ids in rows if ids]
    longest = max(map(len, rows))
    mask = np.array([[1] * len(ids) + [0] * (longest - len(ids)) for ids in rows], np.int32)
    ids = np.array([[*ids, *[pad] * (longest - len(ids))] for ids in rows], np.int32)
    return Inputs(ids, mask, np.zeros_like(ids)), texts
