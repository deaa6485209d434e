"""The base of the experiments on sentences: MiniLM that learned movie snippets until it was good at them."""

from pathlib import Path

from rich.console import Console

from fft.commands.demo import ORIGINAL, cached_base
from fft.data.demo import minilm_folder
from fft.experiment import Data, Experiment, Optim


def movie_base(console: Console) -> Path:
    """The folder of the checkpoint, three epochs at 1e-4; trained the first time (seven minutes), cached after that."""
    return cached_base(
        "movie-base",
        lambda: Experiment(str(minilm_folder()), Data(ORIGINAL, name="original"), optim=Optim(lr=1e-4, epochs=3.0)),
        console,
    )
