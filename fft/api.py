"""The Python ways in: `fft.tune` starts or resumes a run, `fft.assemble` gives the parts of one."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from fft.core.errors import InputError
from fft.core.settings import listed
from fft.data.settings import Data, Texts
from fft.disk.local import local
from fft.experiment import Experiment, Optim, Retention
from fft.methods import Method, parse_chain
from fft.run.accept import accept, resolved
from fft.run.auto import AUTO, choose_for
from fft.run.claim import Run, RunFolder
from fft.run.job import Job
from fft.run.job import assemble as assembled
from fft.run.run import run


def tune(
    model: str | Path,
    new: str | Data,
    original: str | Data | Sequence[str | Data] | None = None,
    method: str | Method = AUTO,
    *,
    out: str | Path,
    head: Literal["new", "shared"] = Experiment.head,
    original_head: str | Sequence[str] | None = None,
    max_length: int | None = Experiment.max_length,
    seed: int = Experiment.seed,
    unlabelled: str | Texts | None = None,
    emit: Callable[[dict], None] = lambda event: None,
    verbose: bool = True,
    **settings: Any,
) -> Run:
    """`fft tune` as a function. Sources may be strings; `method` may be a name as on the command line, by default
    "auto", which tells `emit` what it chose and why; `settings` are fields of Optim and of Retention. Of several
    original tasks `original`, `original_head` and `max_drop` are lists. What goes on is shown on standard error as the
    command shows it, unless `verbose` is False; `emit` is handed every event of the run as a dict.

    Example: `fft.tune("base/", "new.csv", "old.csv", fft.LoRA(rank=16) + fft.EWC(), out="runs/1", epochs=1, lr=1e-3)`

    Raises: as `run`; InputError for a setting that neither Optim nor Retention has.
    """
    parts = {}
    for kind in (Optim, Retention):
        names = [f.name for f in dataclasses.fields(kind)]
        parts[kind] = kind(**{name: settings.pop(name) for name in names if name in settings})
    if settings:
        raise InputError(f"unknown settings {', '.join(settings)}; they are fields of fft.Optim and fft.Retention")
    model, out = local(model, "--model", hub=True), local(out, "--out")
    originals = tuple(data if isinstance(data, Data) else Data(str(data)) for data in listed(original))
    texts = unlabelled if isinstance(unlabelled, Texts | None) else Texts(unlabelled)
    with _shown(verbose, emit) as emit:
        if method == AUTO:
            choice = choose_for(model, bool(originals), texts is not None)
            emit({"event": "say", "text": str(choice)})
            method = choice.chain()
        experiment = Experiment(
            model,
            new if isinstance(new, Data) else Data(str(new)),
            originals,
            parse_chain(method) if isinstance(method, str) else method,
            parts[Optim],
            parts[Retention],
            head,
            listed(original_head),
            max_length,
            seed,
            texts,
        )
        return run(experiment, out, emit)


def assemble(experiment: Experiment, directory: str | Path) -> Job:
    """All that a training loop of one's own needs, made as `fft tune` makes it before its first step: the step, its
    batches, the base with every head, what the methods prepared. See docs/own_loop.md.

    What is slow (fitted heads, statistics of the methods) is kept in `directory`, which is then of this experiment.

    Raises: InputError for input that does not fit, and for a directory of another experiment or a finished run.
    """
    experiment = resolved(experiment)
    with RunFolder(directory, experiment) as folder:
        accepted = accept(experiment, folder.path)
        with folder.claim(accepted.identity):
            if folder.finished:
                raise InputError(f"{folder.path} holds a finished run: choose another folder")
            return assembled(accepted, folder.path, lambda: None)


@contextmanager
def _shown(verbose: bool, emit: Callable[[dict], None]) -> Iterator[Callable[[dict], None]]:
    """What a run's events are to be handed to: `emit`, and with `verbose` a display on standard error as well."""
    if not verbose:
        yield emit
        return
    from rich.console import Console

    from fft.report.console import Display, Progress, tee

    console = Console(stderr=True)
    with Progress(console, "fft.tune"), Display(console) as display:
        yield tee(display.show, emit)
