"""`fft eval`: score a checkpoint on a task."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Annotated

from rich.console import Console

from fft.core.bounds import CountOrZero, check_bounds
from fft.core.computation import Computation, Format
from fft.core.naming import counted
from fft.core.settings import TELLS_DEFAULT, AsJson
from fft.data.settings import Data, MetricName, scored_by
from fft.disk.local import CheckpointPath
from fft.experiment import ScoredLength


@dataclass(frozen=True)
class Flags:
    """Score a checkpoint on a task: print the score, its 95 % interval and the number of rows.

    A source with one split is scored on all rows, others on the split `test`.
    """

    model: CheckpointPath
    """a folder with a Hugging Face checkpoint, a run folder, a GGUF file, hf:NAME or demo:smollm2"""
    task: Data
    adapter: Path | None = None
    """a folder with a PEFT adapter of the model, or a run that trained one: it is merged into the model"""
    metric: MetricName = None
    head: Annotated[str | None, TELLS_DEFAULT] = None
    """the head to score with, if the checkpoint has several (default: its classifier)"""
    predictions: Path | None = None
    """write one JSON line per example to this file: row, label, prediction, logits; of language tasks row, nll (the sum
    in nats), tokens, right; of answers row, prompt, expected, answer, right, truncated"""
    samples: CountOrZero = 0
    """print the first so many prompts with the model's answers, of chat, completion and answer tasks"""
    held_out: bool = False
    """score only the rows that `fft tune` would use for testing, a tenth of a source with one split"""
    max_length: ScoredLength = None
    compute: Format = "float32"
    """number format of products and hidden states"""
    json: AsJson = False

    def __post_init__(self) -> None:
        check_bounds(self)


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """Parse the flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Score the checkpoint and print the score."""
    from fft import models
    from fft.data import prepare_scored, read_scored
    from fft.data.settings import predicts_tokens
    from fft.disk.files import write_lines
    from fft.evaluate.answers import answers
    from fft.evaluate.predictor import make_predict, scored_logits
    from fft.evaluate.written import samples
    from fft.models.heads import chosen_head
    from fft.run.adapted import adapted
    from fft.run.restored import load_model, scored_length
    from fft.run.seen import Scored, seen_notes
    from fft.stats.intervals import interval, predictions
    from fft.stats.metrics import METRICS

    language = predicts_tokens([flags.task])
    checkpoint = adapted(load_model(flags.model, language), [flags.adapter] if flags.adapter else [])
    checkpoint = models.computed(checkpoint, Computation(flags.compute))
    name = chosen_head(checkpoint, flags.head, flags.model, "to score with", language)
    (task,) = scored_by(flags.metric, [flags.task])
    length = scored_length(flags.max_length, {str(flags.adapter or flags.model): checkpoint})
    scored_rows = read_scored(task, flags.held_out)
    data = prepare_scored(task, scored_rows, checkpoint, name, checkpoint.head(name), length.tokens)
    scored = Scored(data.keys["test"], task.source, data.identity["test"]["sha256"], flags.held_out, "--task.test")
    seen = seen_notes([str(path) for path in (flags.model, flags.adapter) if path], scored)
    notes = [*checkpoint.notes, *length.notes, *data.notes, *seen]
    for note in notes:
        console.out(f"note: {note}", highlight=False)
    rows, metric = data.splits["test"], METRICS[data.task.metric]
    logits = scored_logits(make_predict(checkpoint.model, data.task, data.lengths), checkpoint.params, data)
    score = interval(metric, rows.labels, predictions(metric.kind, logits))
    written = answers(data.task, rows, logits) if flags.predictions or data.task.generates else []
    if flags.predictions:
        write_lines(flags.predictions, written)
    ends = "no interval" if isnan(score.low) else f"[{score.low:.4f}, {score.high:.4f}]"
    console.out(f"{metric.name} {score.value:.4f} {ends} on {counted(score.n, 'row')}, head {name}", highlight=False)
    truncated = None
    if data.task.generates:
        truncated = sum(line["truncated"] for line in written) / score.n
        console.out(f"{truncated:.1%} of the answers were cut off at {task.max_new} tokens", highlight=False)
        shown = written[: flags.samples]
    else:
        shown = samples(checkpoint, data, flags.samples, task.max_new) if flags.samples else []
    for line in shown:
        console.out(f"\nrow {line['row']}\n  prompt    {line['prompt']!r}", highlight=False)
        console.out(f"  expected  {line['expected']!r}\n  answer    {line['answer']!r}", highlight=False)
    if flags.predictions:
        console.out(f"wrote {flags.predictions}", highlight=False)
    result = {"head": name, "metric": metric.name, "score": score.value, "low": score.low, "high": score.high}
    if truncated is not None:
        result["truncated"] = truncated
    if shown:
        result["samples"] = shown
    return result | {"n": score.n, "source": flags.task.source, "notes": notes}, 0
