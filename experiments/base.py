"""The bases of the sentence experiments: MiniLM fine-tuned on movie snippets."""

from pathlib import Path

from rich.console import Console

from fft.commands.demo import ORIGINAL, cached_base
from fft.data.demo import minilm_folder
from fft.experiment import Data, Experiment, Optim, Retention

EPOCH_ROWS = 1_344
"""tweets of the experiments that train on one short epoch"""


def movie_base(console: Console) -> Path:
    """Return the checkpoint's folder (three epochs at 1e-4); trained at first use (seven minutes), then cached."""
    return cached_base(
        "movie-base",
        lambda: Experiment(str(minilm_folder()), Data(ORIGINAL, name="original"), optim=Optim(lr=1e-4, epochs=3.0)),
        console,
    )


def short_movie_base(console: Console) -> Path:
    """Return the same after one epoch of 5,000 snippets; trained at first use (two minutes), then cached."""
    return cached_base(
        "demo-base",  # the name that the stored results have
        lambda: Experiment(
            str(minilm_folder()),
            Data(ORIGINAL, name="original", train_rows=5_000),
            optim=Optim(lr=1e-4, epochs=1.0),
            retention=Retention(eval_every=19),  # the best scored step is the base
        ),
        console,
    )
