"""The models and texts of the device check: shapes, random weights, batches, and the operations of a step.

Letters: B rows, T tokens, D model, H heads, K head width, V vocabulary, L layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.batch import Batch
from fft.core.computation import Computation
from fft.core.tree import Params, unflatten
from fft.methods import Full, LoRA, Method
from fft.models import FAMILIES
from fft.models.files.config import hashable
from fft.models.files.keys import expected_shapes
from fft.models.files.unembed import language_shapes
from fft.models.layers import Config
from fft.models.model import Model, build
from fft.tasks import Classify, Language, Task

RANK, ALPHA, CLASSES, HEAD = 16, 32, 3, "new"
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": ROPE,
    "tie_word_embeddings": True,
}
"""the shape of Llama-3.2-1B"""
SMALL = {
    **LLAMA,
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
TOY = {**SMALL, "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "head_dim": 8}
BERT = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
TOY_BERT = {name: TOY[name] for name in BERT}
SHRUNK = 16
"""a toy's texts are this many times shorter"""


@dataclass(frozen=True)
class Work:
    """A training step, the same for every library."""

    name: str
    family: str
    fields: Mapping[str, Any]
    """of config.json"""
    rows: int
    tokens: int
    lora: bool = False

    @property
    def causal(self) -> bool:
        """Whether the step learns to predict the next token; else it learns CLASSES classes."""
        return not FAMILIES[self.family].language.masked

    @property
    def method(self) -> Method:
        """The method of `fft` for the step."""
        return LoRA(rank=RANK, alpha=ALPHA, targets="all-linear", factored=True) if self.lora else Full()


WORKS = {
    work.name: work
    for work in (
        Work("lora-2048", "llama", LLAMA, 4, 2048, lora=True),
        Work("full-2048", "llama", LLAMA, 4, 2048),
        Work("lora-4096", "llama", LLAMA, 2, 4096, lora=True),
        Work("full-4096", "llama", LLAMA, 2, 4096),
        Work("fisher-2048", "llama", LLAMA, 2, 2048),
        Work("bert-128", "bert", BERT, 64, 128),
        Work("bert-512", "bert", BERT, 32, 512),
    )
}
GROUPS = {
    "2048": ("lora-2048", "full-2048"),
    "bert": ("bert-128", "bert-512"),
    "4096": ("lora-4096", "full-4096"),
}
"""the works that one process does; memory rises from one to the next, as its peak is that of the process so far"""


def work_of(name: str, toy: bool) -> Work:
    """Return the Work of this name; with `toy` of a tiny model and short texts."""
    work = WORKS[name]
    if not toy:
        return work
    fields = TOY if work.family == "llama" else TOY_BERT
    return replace(work, fields=fields, rows=3, tokens=max(8, work.tokens // SHRUNK))


def config_of(work: Work) -> Config:
    """Return the config of the step's model."""
    config = FAMILIES[work.family].config(**{name: hashable(value) for name, value in work.fields.items()})
    assert not list(config.problems())
    return config


def model_of(work: Work, computation: Computation) -> Model:
    """Return the step's model, in the formats of a computation."""
    return build(FAMILIES[work.family], config_of(work), computation)


def params_of(work: Work, rounded: bool = False) -> Params:
    """Return random parameters with the language head of a decoder, or the head HEAD of an encoder.

    If `rounded`, matrices are in bfloat16, as those of a frozen base.
    """
    family, config = FAMILIES[work.family], config_of(work)
    shapes = expected_shapes(family, config, {} if work.causal else {HEAD: CLASSES})
    leaves = random_leaves(shapes | (language_shapes(family, config) if work.causal else {}), seed=0)
    return unflatten(
        {p: leaf.astype(jnp.bfloat16) if rounded and leaf.ndim == 2 else leaf for p, leaf in leaves.items()}
    )


@partial(jax.jit, static_argnums=1)
def _drawn(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return 0.02 * jax.random.normal(key, shape, jnp.float32)


def random_leaves(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, jax.Array]:
    """Return random parameters float32 by path, scales near 1."""
    key, leaves = jax.random.key(seed), {}
    for number, (path, shape) in enumerate(shapes.items()):
        leaf = _drawn(jax.random.fold_in(key, number), shape)
        leaves[path] = 1 + leaf if path.endswith("/scale") else leaf
    return leaves


def task_of(work: Work) -> Task:
    """Return the task that the step learns."""
    return Language() if work.causal else Classify(HEAD, tuple(map(str, range(CLASSES))))


def batch_of(work: Work, lengths: np.ndarray | None = None) -> Batch:
    """Return rows of random tokens, all of T tokens or of these `lengths`, with the targets of `task_of`."""
    rng, rows = np.random.default_rng(0), np.arange(work.rows, dtype=np.int32)
    lengths = np.full(work.rows, work.tokens) if lengths is None else lengths
    mask = (np.arange(work.tokens)[None] < lengths[:, None]).astype(np.int32)
    ids = (rng.integers(4, work.fields["vocab_size"], mask.shape) * mask).astype(np.int32)
    if not work.causal:
        return Batch(ids, mask, 0 * ids, rows % CLASSES, np.ones(work.rows, np.float32), rows)
    places = np.tile(np.arange(work.tokens - 1, dtype=np.int32), (work.rows, 1))
    return Batch(ids, mask, 0 * ids, ids[:, 1:], mask[:, 1:].astype(np.float32), rows, places=places)
