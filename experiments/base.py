"""The bases of the sentence experiments: MiniLM fine-tuned on movie snippets."""

from functools import partial
from pathlib import Path

from rich.console import Console

from fft.commands.demo import ORIGINAL, base_recipe, cached_base
from fft.data.demo import minilm_folder
from fft.experiment import Data, Experiment, Optim


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
        partial(base_recipe, rows=5_000, every=19),
        console,
    )
