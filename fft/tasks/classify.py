"""Text classification: label names to class numbers, and the cross-entropy of one example.

On a device a label of -1 scores as the last class and a label >= C gives NaN, so every label is checked here.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from fft.errors import InputError
from fft.tasks.headed import OneHead
from fft.tasks.rows import Label, Rows

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)([eE][-+]?[0-9]+)?")
_GENERIC = re.compile(r"LABEL_[0-9]+")


@dataclass(frozen=True)
class Classify(OneHead):
    """Classification with the head `name` into C = len(labels) classes; class c is called labels[c]."""

    name: str
    labels: tuple[str, ...]
    metric: str = "accuracy"
    kind: ClassVar[str] = "classification"

    def nll(self, logits: jax.Array, batch: dict) -> jax.Array:
        """Cross-entropy in nats of every example, logsumexp_c(z_c) - z_label; [B, C] -> float32 [B]."""
        logits = logits.astype(jnp.float32)
        picked = jnp.take_along_axis(logits, batch["label"][:, None], axis=-1)[:, 0]
        nll = jax.nn.logsumexp(logits, axis=-1) - picked
        return jnp.where(batch["weight"] > 0, nll, 0.0)

    @property
    def outputs(self) -> int:
        """C, the width of the head."""
        return len(self.labels)

    def calibrated(self, predict: Callable[[], tuple[np.ndarray, np.ndarray]]) -> "Classify":
        """The task itself: class probabilities have no scale to fit."""
        return self

    def divergence(self, teacher: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
        """τ² KL(softmax(teacher / τ) ‖ softmax(logits / τ)) in nats of every example; [B, C] twice -> float32 [B].

        τ² keeps the size of the gradient (Hinton et al. 2015, arXiv 1503.02531, section 2).
        """
        before, now = (jax.nn.log_softmax(z.astype(jnp.float32) / temperature) for z in (teacher, logits))
        return temperature**2 * jnp.sum(jnp.exp(before) * (before - now), axis=-1)

    def credit(self, logits: jax.Array, label: jax.Array, spread: float) -> jax.Array:
        """1 where the label is the likeliest class, else 0: the mean is the accuracy; [B, C], [B] -> float32 [B].

        It stands for macro_f1 and mcc too, which have no score of one example.
        """
        return (jnp.argmax(logits, axis=-1) == label).astype(jnp.float32)

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Labels int32 [B] drawn from the model's own distribution softmax(logits [B, C])."""
        return jax.random.categorical(key, logits)

    def support(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Every label [C, B] with its probability [C, B]: expectations over the model's labels, without drawing."""
        classes = jnp.arange(logits.shape[-1], dtype=jnp.int32)
        return jnp.broadcast_to(classes[:, None], logits.shape[::-1]), jax.nn.softmax(logits).T


def label_names(rows: Rows) -> tuple[str, ...]:
    """The class names of `rows`: whole numbers in numeric order ('0', '1', ...), else names in alphabetic order.

    Raises InputError for labels that are fractions (that is regression), negative, or of one class only.
    """
    _refuse_fractions(rows)
    names = {str(label) for label in rows.labels}
    whole = all(_INTEGER.fullmatch(name) for name in names)
    if whole:
        _refuse_negative(rows)
    if len(names) < 2:
        raise InputError(f"{rows.source}: every row has the label {names.pop()!r}; classification needs two or more")
    return tuple(sorted(names, key=int if whole else str))


def encode_labels(
    rows: Rows, labels: Sequence[str] | None = None, numbers: bool = True
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class numbers int32 [N] and the class names; `labels` fixes the names, None takes those of `rows`.

    With fixed names a label is one of them, whatever blanks a name has at its ends (labels of rows have none), in any
    case where that is unambiguous. With `numbers`, rows that have only whole numbers where no name is a number have
    class numbers, as in Hugging Face's id2label.
    Raises InputError naming the row of an unknown label, a negative one or one >= C.
    """
    if labels is None:
        names = label_names(rows)
        at = {name: index for index, name in enumerate(names)}
        return np.array([at[str(label)] for label in rows.labels], np.int32), names
    names = tuple(name.strip() for name in labels)
    if not any(_FLOAT.fullmatch(name) for name in names):
        _refuse_fractions(rows)
    numbered = numbers and not any(_INTEGER.fullmatch(name) for name in names) and _all_whole(rows)
    known: dict[Label, int] = {}
    found = np.empty(len(rows.labels), np.int32)
    for row, label in enumerate(rows.labels):
        if label not in known:
            known[label] = _class_of(label, names, numbered, f"{rows.source}, row {rows.numbers[row]}")
        found[row] = known[label]
    return found, tuple(labels)


def numbers_for_names(rows: Rows, labels: Sequence[str]) -> bool:
    """True when `rows` has class numbers although the head's classes have real names: worth telling the user."""
    if any(_INTEGER.fullmatch(name.strip()) or _GENERIC.fullmatch(name.strip()) for name in labels):
        return False
    return _all_whole(rows)


def _all_whole(rows: Rows) -> bool:
    return all(_INTEGER.fullmatch(str(label)) for label in rows.labels)


def _class_of(label: Label, names: tuple[str, ...], numbered: bool, where: str) -> int:
    """The class number of one label of a head with fixed names."""
    text = str(label)
    if text in names:
        return names.index(text)
    near = [index for index, name in enumerate(names) if name.casefold() == text.casefold()]
    if len(near) == 1:
        return near[0]
    if _INTEGER.fullmatch(text):
        if int(text) < 0:
            raise InputError(f"{where}: label {text}: {_UNLABELLED}")
        if numbered and int(text) < len(names):
            return int(text)
    close = difflib.get_close_matches(text, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if not close and all(_INTEGER.fullmatch(name) or _GENERIC.fullmatch(name) for name in names):
        hint = " If these are the same classes, give them their names in id2label of config.json"
    ids = f", or 0 to {len(names) - 1}" if numbered else ""
    raise InputError(f"{where}: unknown label {text!r}; the head has {', '.join(map(repr, names))}{ids}.{hint}")


_UNLABELLED = (
    "-1 and other negative numbers mark unlabelled rows in published data sets. Remove these rows or name the class."
)


def _refuse_fractions(rows: Rows) -> None:
    texts = [str(label) for label in rows.labels]
    if not all(_FLOAT.fullmatch(text) or text in ("nan", "inf", "-inf") for text in texts):
        return
    for number, text in zip(rows.numbers, texts, strict=True):
        if not re.fullmatch(r"[-+]?[0-9]+", text):
            raise InputError(
                f"{rows.source}, row {number}: label {text} is not a whole number, so this is no class. Classes are "
                "names or whole numbers; for a numeric target use kind regression (--new.kind regression)."
            )


def _refuse_negative(rows: Rows) -> None:
    for number, label in zip(rows.numbers, rows.labels, strict=True):
        if int(label) < 0:
            raise InputError(f"{rows.source}, row {number}: label {label}: {_UNLABELLED}")
