"""`fft eval`: score a checkpoint on a task."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Annotated

from rich.console import Console

from fft.experiment import Data, Experiment
from fft.schema import TELLS_DEFAULT


@dataclass(frozen=True)
class Flags:
    """Score a checkpoint on a task: the score, its 95 % interval and the number of rows.

    All rows of a source with one split are scored, else those of its split `test`.
    """

    model: str
    """a folder with a Hugging Face checkpoint, a run folder, or hf:NAME"""
    task: Data
    adapter: Path | None = None
    """a folder with PEFT's files, put on the model"""
    metric: Annotated[str | None, TELLS_DEFAULT] = None
    """the score (default: accuracy, or pearson for regression)"""
    head: Annotated[str | None, TELLS_DEFAULT] = None
    """which head, where the checkpoint has several (default: its classifier)"""
    predictions: Path | None = None
    """write one JSON line an example to this file: row, label, prediction, logits"""
    max_length: Annotated[int | None, TELLS_DEFAULT] = Experiment.max_length
    """tokens of a text; longer ones are cut and counted (default: 128, or as many as the model takes)"""
    json: bool = False
    """print the result as one JSON object on standard output, everything else on standard error"""


def parse(args: list[str], cli: Callable) -> Flags:
    """The flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Score and print."""
    from fft import tasks
    from fft.commands.tune import with_metric
    from fft.evaluate import interval, make_predict, predictions
    from fft.heads import chosen_head
    from fft.metrics import METRICS
    from fft.pairs.answers import answers, write_lines
    from fft.peft import load_adapter
    from fft.restored import load_model
    from fft.scoring import scored_logits

    checkpoint = load_model(flags.model)
    if flags.adapter:
        checkpoint = load_adapter(flags.adapter, checkpoint).on(checkpoint)
    name = chosen_head(checkpoint, flags.head, flags.model, "to score with")
    task = with_metric(flags.task, flags.metric)
    data = tasks.prepare_scored(
        task, tasks.read_scored(task), checkpoint, name, checkpoint.heads[name], flags.max_length
    )
    for warning in (*checkpoint.notes, *data.warnings):
        console.out(f"note: {warning}", highlight=False)
    rows, metric = data.splits["test"], METRICS[data.task.metric]
    logits = scored_logits(make_predict(checkpoint.model, name), checkpoint.params, data)
    score = interval(metric, rows.labels, predictions(metric.kind, logits))
    if flags.predictions:
        write_lines(flags.predictions, answers(data.task, rows, logits))
    ends = "no interval" if isnan(score.low) else f"[{score.low:.4f}, {score.high:.4f}]"
    console.out(f"{metric.name} {score.value:.4f} {ends} on {score.n} rows, head {name}", highlight=False)
    if flags.predictions:
        console.out(f"wrote {flags.predictions}", highlight=False)
    scored = {"head": name, "metric": metric.name, "score": score.value, "low": score.low, "high": score.high}
    return scored | {"n": score.n, "source": flags.task.source, "notes": [*data.warnings]}, 0
