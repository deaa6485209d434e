"""The base of the sentence experiments: MiniLM fine-tuned on movie snippets."""

from pathlib import Path

from rich.console import Console

from fft.commands.demo import ORIGINAL, cached_base
from fft.data.demo import minilm_folder
from fft.experiment import Data, Experiment, Optim


def movie_base(console: Console) -> Path:
    """Return the checkpoint's folder (three epochs at 1e-4); trained at first use (seven minutes), then cached."""
    return cached_base(
        "movie-base",
        lambda: Experiment(str(minilm_folder()), Data(ORIGINAL, name="original"), optim=Optim(lr=1e-4, epochs=3.0)),
        console,
    )
