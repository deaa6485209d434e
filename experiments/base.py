"""The bases of the experiments on sentences: MiniLM that learned movie snippets, one epoch of some or three of all."""

from pathlib import Path

from rich.console import Console

from fft.commands.demo import ORIGINAL, cached_base
from fft.data.demo import minilm_folder
from fft.experiment import Data, Experiment, Optim, Retention

TWEETS = 1_344
"""new training rows of the experiments that start from `quick_base`"""


def quick_base(console: Console) -> Path:
    """The folder of the checkpoint after one epoch of 5,000 rows at 1e-4; trained the first time, cached after that."""
    return cached_base(
        "demo-base",
        lambda: Experiment(
            str(minilm_folder()),
            Data(ORIGINAL, name="original", train_rows=5_000),
            optim=Optim(lr=1e-4, epochs=1.0),
            retention=Retention(eval_every=19),  # part of the recipe: the best scored step is the base
        ),
        console,
    )


def movie_base(console: Console) -> Path:
    """Return the checkpoint's folder (three epochs at 1e-4); trained at first use (seven minutes), then cached."""
    return cached_base(
        "movie-base",
        lambda: Experiment(str(minilm_folder()), Data(ORIGINAL, name="original"), optim=Optim(lr=1e-4, epochs=3.0)),
        console,
    )
