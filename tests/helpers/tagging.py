"""A task that predicts a tag for every word, which this package does not have: what it takes to add a kind of task.

The labels of a row are the tags of its words, with blanks between; every word is one token of the tiny tokenizer.
"""

import contextlib
from dataclasses import dataclass
from typing import ClassVar
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.batch import Batch, weighted_sum
from fft.core.tree import unflatten
from fft.data.kinds import KINDS as LABELS
from fft.data.kinds.labelled import Labelled
from fft.models.families import bert
from fft.models.families.bert import BertConfig
from fft.models.files.keys import expected_shapes
from fft.models.model import build
from fft.stats.metrics import METRICS, Metric
from fft.tasks import KINDS as TASKS
from fft.tasks import Classify
from tests.helpers.tiny_checkpoint import BAD, GOOD, sentences, write_csv


@dataclass(frozen=True)
class Tag(Classify):
    """A class for every token; the metric compares the number of right ones with the number there are."""

    metric: str = "share_right"
    kind: ClassVar[str] = "tags"
    problem: ClassVar[str] = "token_classification"
    reads: ClassVar[str] = "tokens"

    def called(self, value):
        return float(value)

    def score(self, outputs, batch):
        """[B, 3]: right tokens, tokens, Σ nll."""
        logits = self.logits(outputs, batch)
        right = jnp.argmax(logits, axis=-1) == batch.targets
        nll = self.nll(logits, batch.targets)
        sums = jax.vmap(weighted_sum)
        return jnp.stack([sums(right, batch.weight), jnp.sum(batch.weight, axis=1), sums(nll, batch.weight)], axis=1)

    def losses(self, scores, labels):
        return scores[:, 2] / labels

    def credit(self, scores, targets, scale):
        return scores[:, 0] / scale

    def scale(self, labels):
        """The mean number of tokens."""
        return float(np.mean(labels))


class Tags(Labelled):
    """A tag a word."""

    predicts = "tags"
    metric, what, advice = "share_right", "number of tags", "Give rows that differ"

    def task(self, name, labels, metric, rows):
        return Tag(name, labels or tuple(sorted({tag for label in rows.labels for tag in label.split()})), metric)

    def encoded(self, task, rows, numbers):
        return np.array([len(label.split()) for label in rows.labels], np.float32), []

    def with_targets(self, task, rows, encoded):
        tags = [[task.labels.index(tag) for tag in label.split()] for label in rows.labels]
        return encoded._replace(targets=[np.array([-1, *each, -1], np.int32) for each in tags])

    def training_notes(self, task, rows, splits):
        return []

    def refusal(self, rows):
        return ""

    def summary(self, rows):
        return {"labels": {}}

    def values(self, rows):
        return rows.labels


def share_right(labels, predictions):
    """Σ right / Σ tokens over the rows [..., N] -> [...]."""
    return np.sum(predictions, axis=-1) / np.sum(labels, axis=-1)


@contextlib.contextmanager
def registered():
    """While the block runs, tags are a kind of task like the others."""
    metric = Metric("share_right", "tags", +1, (0.0, 1.0), share_right)
    with contextlib.ExitStack() as stack:
        for registry, name, value in (
            (TASKS, "tags", Tag),
            (LABELS, "tags", Tags()),
            (METRICS, "share_right", metric),
        ):
            stack.enter_context(mock.patch.dict(registry, {name: value}))
        yield


def tag_of(word):
    """good, bad or other."""
    return "good" if word in GOOD else "bad" if word in BAD else "other"


def write_tags(path, rows=240, seed=6, filler=(2, 5)):
    """text,label: the feeling of every word; texts of two lengths."""
    found = [text for text, _, _ in sentences(rows, seed, filler)]
    return write_csv(path, ("text", "label"), [(text, " ".join(map(tag_of, text.split()))) for text in found])


def tiny_encoder(heads, seed=0):
    """(Model, params) of a random BERT of one block without dropout; `heads` is {name: classes}."""
    config = BertConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    rng = np.random.default_rng(seed)
    shapes = expected_shapes(bert.FAMILY, config, heads)
    leaves = {path: jnp.asarray(0.5 * rng.normal(size=shape), jnp.float32) for path, shape in shapes.items()}
    leaves |= {path: 1 + leaf for path, leaf in leaves.items() if path.endswith("scale")}
    return build(bert.FAMILY, config), unflatten(leaves)


def token_rows(lengths, classes, seed=0, filler=0):
    """A Batch of rows of so many tokens, all but the first and last of each with a target; the last rows are filler."""
    rng, size = np.random.default_rng(seed), max(lengths)
    place, length = np.arange(size)[None], np.array(lengths)[:, None]
    mask = (place < length).astype(np.int32)
    ids = rng.integers(1, 9, mask.shape).astype(np.int32) * mask
    weight = ((place > 0) & (place < length - 1)).astype(np.float32)
    weight[len(lengths) - filler :] = 0
    targets = rng.integers(0, classes, mask.shape).astype(np.int32)
    return Batch(ids, mask, np.zeros_like(ids), targets, weight, np.arange(len(lengths), dtype=np.int32))
