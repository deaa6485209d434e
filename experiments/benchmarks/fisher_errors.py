"""Errors of the two Fisher implementations against per-example float64 gradients, by model family.

    python -m experiments.benchmarks.fisher_errors

Random small models with padding, repeated tokens and a filler row, two heads if there are heads, all in float32, with
the data's labels. The error is the worst leaf's |a - b| / |b|, without key biases (their true gradient is 0).
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from fft import models
from fft.core.batch import Batch
from fft.core.network import Network
from fft.core.tree import Params, flatten
from fft.fisher.diagonal import diagonal_fisher
from fft.tasks import Classify, Task
from tests.helpers import per_example as reference
from tests.helpers import torch_models as theirs
from tests.helpers.language_model import LANGUAGE, language_logits, sequence_nll
from tests.helpers.language_model import decoder as tiny_decoder

Case = tuple[Network, Task, Params, Batch, Callable, Callable]
"""(model, task, params, batch, run, nll), the last two as in tests.helpers.per_example.loop"""


def encoder(family: str) -> Case:
    """Return a random model of a family, with the task's head and a second one."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = models.load(theirs.save(theirs.make(family, num_labels=3), Path(folder)))
    second = checkpoint.model.init_head(jax.random.key(3), 3)
    params = {**checkpoint.params, "heads": {**checkpoint.params["heads"], "second": second}}
    task, nll = Classify("original", ("a", "b", "c")), reference.cross_entropy("original")
    return checkpoint.model, task, params, reference.family_batch(family, rows=9), checkpoint.model.apply, nll


def decoder(tied: bool) -> Case:
    """Return a tiny decoder with fused projection, RMS norm, and an output layer tied to the embedding or not."""
    return LANGUAGE, LANGUAGE, *tiny_decoder(tied), language_logits, sequence_nll


def worst(case: Case, way: str) -> tuple[float, str]:
    """Return the worst leaf's error and its path."""
    model, task, params, batch, run, nll = case
    expected = flatten(reference.loop(run, params, batch, nll))
    fisher = diagonal_fisher(model, task, params, [batch], jax.random.key(0), estimator="empirical", way=way)
    errors = []
    for path, leaf in flatten(fisher.diagonal).items():
        norm = np.linalg.norm(expected[path])
        if norm > 0 and not path.endswith(reference.KEY_BIAS):
            errors.append((float(np.linalg.norm(np.asarray(leaf, np.float64) - expected[path]) / norm), path))
    return max(errors)


def main() -> None:
    """Print the table and, last, the figures as JSON."""
    cases = {family: lambda family=family: encoder(family) for family in sorted(theirs.FAMILIES)}
    cases |= {"decoder, tied": lambda: decoder(True), "decoder, untied": lambda: decoder(False)}
    table, figures = Table("model", "way", "worst leaf's error", "leaf"), {}
    for name, make in cases.items():
        case = make()
        for way in ("fused", "vmapped"):
            error, path = worst(case, way)
            figures[f"{name} {way}"] = error
            table.add_row(name, way, f"{error:.1e}", path)
    Console(width=110).print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
