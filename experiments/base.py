"""The bases of the experiments on sentences: MiniLM that learned movie snippets, one epoch of some or three of all."""

from pathlib import Path

from rich.console import Console

from fft.commands.demo import NEW_ROWS, ORIGINAL, cached_base, trained_base
from fft.data.demo import minilm_folder
from fft.experiment import Data, Experiment, Optim

TWEETS = NEW_ROWS
"""new training rows of the experiments that start from `quick_base`"""


def quick_base(console: Console) -> Path:
    """Return the folder of the demo's base: one epoch of some movie snippets."""
    return trained_base(console)


def movie_base(console: Console) -> Path:
    """Return the checkpoint's folder (three epochs at 1e-4); trained at first use (seven minutes), then cached."""
    return cached_base(
        "movie-base",
        lambda: Experiment(str(minilm_folder()), Data(ORIGINAL, name="original"), optim=Optim(lr=1e-4, epochs=3.0)),
        console,
    )
