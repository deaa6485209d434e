"""The Python entry points: `fft.tune` runs, `fft.assemble` returns the parts of a run, `fft.generate` writes texts."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from fft import models
from fft.core.computation import Computation, Format
from fft.core.errors import InputError
from fft.core.settings import listed
from fft.data.prompts import Messages, checked, in_chat
from fft.data.settings import Data, Texts, predicts_tokens
from fft.disk.local import local
from fft.evaluate.generate import Generated
from fft.evaluate.generate import generate as generated
from fft.evaluate.settings import Generation
from fft.experiment import Experiment, Optim, Retention
from fft.methods import Method, parse_chain
from fft.run.accept import accept, resolved
from fft.run.adapted import adapted
from fft.run.auto import AUTO, choose_for
from fft.run.claim import Run, RunFolder
from fft.run.job import Job
from fft.run.job import assemble as assembled
from fft.run.restored import load_causal
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
    """Run `fft tune` from Python: start or resume the run in `out`.

    Sources may be strings. `method` may be a name as on the command line; the default, "auto", reports its choice and
    the reason through `emit`. `settings` are fields of Optim, Retention and Computation. With several original tasks,
    `original`, `original_head` and `max_drop` are lists. Progress appears on standard error as in the command, unless
    `verbose` is False; `emit` receives every event of the run as a dict.

    Raises: InputError for a setting that none of Optim, Retention and Computation has; otherwise as `run`.
    Example: `fft.tune("base/", "new.csv", "old.csv", fft.LoRA(rank=16) + fft.EWC(), out="runs/1", epochs=1, lr=1e-3)`
    """
    parts = {}
    for kind in (Optim, Retention, Computation):
        names = [f.name for f in dataclasses.fields(kind)]
        parts[kind] = kind(**{name: settings.pop(name) for name in names if name in settings})
    if settings:
        kinds = ", ".join(f"fft.{kind.__name__}" for kind in parts)
        raise InputError(f"unknown settings {', '.join(settings)}: give fields of {kinds}")
    model, out = local(model, "--model", hub=True), local(out, "--out")
    originals = tuple(data if isinstance(data, Data) else Data(str(data)) for data in listed(original))
    texts = unlabelled if isinstance(unlabelled, Texts | None) else Texts(unlabelled)
    with _shown(verbose, emit) as emit:
        if method == AUTO:
            task = new if isinstance(new, Data) else Data(str(new))
            choice = choose_for(model, bool(originals), texts is not None, predicts_tokens([task, *originals]))
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
            parts[Computation],
        )
        return run(experiment, out, emit)


def assemble(experiment: Experiment, directory: str | Path) -> Job:
    """Return everything a custom training loop needs, prepared as by `fft tune`: the training step, its batches, the
    base with all heads, and the state that the methods prepared. See docs/own_loop.md.

    Slow results (fitted heads, statistics of the methods) are cached in `directory`, which then belongs to this
    experiment.

    Raises: InputError for unusable input, and for a directory of another experiment or of a finished run.
    """
    experiment = resolved(experiment)
    with RunFolder(directory, experiment) as folder:
        accepted = accept(experiment, folder.path)
        with folder.claim(accepted.identity):
            if folder.finished:
                raise InputError(f"{folder.path} holds a finished run: choose another folder")
            return assembled(accepted, folder.path, lambda: None)


def generate(
    model: str | Path | models.Checkpoint,
    prompts: str | Sequence[str | Messages],
    *,
    chat: bool = False,
    adapter: str | Path | Sequence[str | Path] = (),
    adapter_weights: float | Sequence[float] = (),
    compute: Format | None = None,
    **settings: Any,
) -> Generated:
    """Write texts with a causal language model, as `fft generate` does: continue texts and answer conversations.

    `model` is a checkpoint loaded with `language=True`, or a path as on the command line. Each prompt is a text, or a
    conversation as a list of {"role", "content"}; with `chat` texts are put into the chat template too. `adapter` is a
    PEFT folder or a run, which is merged into the model, or several with `adapter_weights`. `compute` is the number
    format (default: that of the checkpoint, float32 for a path). `settings` are those of
    fft.evaluate.settings.Generation: max_new, temperature, top_p, n, seed, batch_size.

    Raises: InputError as the command. Example: `fft.generate("smollm2/", ["Once upon a time"], max_new=20).texts`
    """
    listed_prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    each = [checked(content, f"prompt {number}") for number, content in enumerate(listed_prompts, 1)]
    if not each:
        raise InputError("there are no prompts: give at least one; an empty text is the beginning of a text")
    names = [field.name for field in dataclasses.fields(Generation)]
    if unknown := [name for name in settings if name not in names]:
        raise InputError(f"unknown settings {', '.join(unknown)}: give some of {', '.join(names)}")
    generation = Generation(**settings)
    base = model if isinstance(model, models.Checkpoint) else load_causal(str(model))
    checkpoint = adapted(base, listed(adapter), listed(adapter_weights))
    if compute is not None:
        checkpoint = models.computed(checkpoint, Computation(compute))
    return generated(checkpoint, [in_chat(prompt) for prompt in each] if chat else each, generation)


@contextmanager
def _shown(verbose: bool, emit: Callable[[dict], None]) -> Iterator[Callable[[dict], None]]:
    """Yield the function that receives a run's events: `emit`, with `verbose` joined by a display on standard error."""
    if not verbose:
        yield emit
        return
    from rich.console import Console

    from fft.report.console import Display, Progress, tee

    console = Console(stderr=True)
    with Progress(console, "fft.tune"), Display(console) as display:
        yield tee(display.show, emit)
