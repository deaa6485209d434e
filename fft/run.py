"""run(): from an Experiment to a finished run folder. The one place that knows the order of things.

RUN/experiment.json       what was asked for, resolved; `fft tune --config` repeats it
    run.json              what came out; a folder that has it is a finished run
    metrics.jsonl         one line an event
    heads/ prepared/      heads the run added and the method's statistics, made once
    checkpoints/          steps to resume from, the best among them
    model/                the fine-tuned checkpoint in Hugging Face's format
    report.html history.svg history.png
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fft import models, record, retention
from fft.checkpoint import Checkpoints
from fft.errors import InputError
from fft.experiment import Data, Experiment, Optim, Retention, from_json
from fft.heads import load_heads
from fft.job import Job, accept, assemble, base_sha256, make_trainable, parameter_counts, resolved
from fft.journal import Journal
from fft.methods import Method, parse_chain
from fft.paths import Params
from fft.scoring import Scorer
from fft.signals import StopFlag
from fft.tasks import TrainBatches
from fft.train import TrainState

SCORINGS = 8
MOST_SKIPPED_IN_A_ROW = 10
LOGGED_STEPS = 100


class Run(NamedTuple):
    """A finished run: its folder and what run.json says."""

    directory: Path
    record: dict

    @property
    def exit_code(self) -> int:
        """0 the original task was kept (or none was watched), 1 it was not, 4 undecided."""
        verdict = self.record["verdict"]
        return 0 if verdict is None else retention.EXIT_CODES[verdict["outcome"]]


def run(experiment: Experiment, directory: str | Path, emit: Callable[[dict], None] = lambda event: None) -> Run:
    """Fine-tune as `experiment` says and leave everything in `directory`; an interrupted run goes on where it was.

    `emit` receives every event that metrics.jsonl gets, and {"event": "say", "text"}.

    Errors: InputError for input that does not fit, a folder of another experiment (with the difference), ten steps in
    a row that are not finite; MachineError for the disk; Stopped after SIGTERM or SIGINT, once the state is saved.
    """
    directory = Path(directory)
    experiment = resolved(experiment)
    with StopFlag() as stop:
        if (directory / "experiment.json").exists():
            with record.RunLock(directory):
                if finished := _claim(directory, experiment):
                    return finished
        start = time.monotonic()
        accepted = accept(experiment, lambda text: emit({"event": "say", "text": text}))
        stop.check()
        # Input that is refused leaves no trace, so that the corrected call may name the same folder.
        with record.RunLock(directory):
            if finished := _claim(directory, experiment):
                return finished
            _agree(directory / "identity.json", accepted.identity, "a run on other weights or data")
            journal = Journal(directory / "metrics.jsonl", emit, {"prepare": time.monotonic() - start})
            with journal.clock("prepare"):
                job = assemble(accepted, directory, stop.check, journal.say)
            return Run(directory, _run(job, directory, journal, stop))


def tune(
    model: str | Path,
    new: str | Data,
    original: str | Data | None = None,
    method: str | Method = "full",
    *,
    out: str | Path,
    head: str = Experiment.head,
    original_head: str | None = Experiment.original_head,
    max_length: int | None = Experiment.max_length,
    seed: int = Experiment.seed,
    emit: Callable[[dict], None] = lambda event: None,
    **settings: Any,
) -> Run:
    """`fft tune` as a function. Sources may be strings; `settings` are fields of Optim and of Retention.

    Example: `fft.tune("base/", "new.csv", "old.csv", fft.LoRA(rank=16) + fft.EWC(), out="runs/1", epochs=1, lr=1e-3)`

    Errors: as `run`; InputError for a setting that neither Optim nor Retention has.
    """
    parts = {}
    for kind in (Optim, Retention):
        names = [f.name for f in dataclasses.fields(kind)]
        parts[kind] = kind(**{name: settings.pop(name) for name in names if name in settings})
    if settings:
        raise InputError(f"unknown settings {', '.join(settings)}; they are fields of fft.Optim and fft.Retention")
    experiment = Experiment(
        str(model),
        new if isinstance(new, Data) else Data(str(new)),
        original if isinstance(original, Data | None) else Data(str(original)),
        parse_chain(method) if isinstance(method, str) else method,
        parts[Optim],
        parts[Retention],
        head,
        original_head,
        max_length,
        seed,
    )
    return run(experiment, out, emit)


def finished_params(method: Method, base: Params, theta: Params) -> Params:
    """The plain parameters that a trained tree stands for, after whatever the method does at the end."""
    return method.finish(base, method.merge(base, theta))


def restore(directory: str | Path, which: str | None = None) -> models.Checkpoint:
    """The model of a run's "best" or "latest" step: (model, params, heads, primary, folder, raw_config).

    Without `which` it is the step the run itself keeps, that of RUN/model (Retention.keep).

    No data are read; the base checkpoint must still be where the experiment says, because steps hold only what was
    trained. A run that is still going may be read.

    Errors: InputError for a folder that is no run, or in which no good step is left.
    """
    directory = Path(directory)
    path = directory / "experiment.json"
    experiment = from_json(read_object(path), where=str(path))
    base = models.load(experiment.model)
    if base_sha256(base) != read_object(directory / "identity.json")["base_sha256"]:
        raise InputError(f"{experiment.model} holds other weights than those that {directory} was trained from")
    checkpoint = load_heads(base, directory / "heads")
    trainable = make_trainable(experiment, checkpoint, {}, 1)
    checkpoints = Checkpoints(directory / "checkpoints")
    which = which or experiment.retention.keep
    step = None if which == "latest" else checkpoints.read_extra()[1]["best"]
    state = checkpoints.restore(jax.eval_shape(trainable.init), step).tree
    return checkpoint._replace(params=finished_params(experiment.method, checkpoint.params, state.theta))


def model_folder(folder: str) -> str:
    """The checkpoint that a path names: a finished run's model/, else the path itself."""
    return str(Path(folder) / "model") if (Path(folder) / "run.json").is_file() else folder


def read_object(path: Path) -> dict:
    """The JSON object in a file of a run folder; InputError when it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent} is not a run folder: it has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None


def _claim(directory: Path, experiment: Experiment) -> Run | None:
    """Make the folder the experiment's own, or refuse; the run if it is finished already."""
    _agree(directory / "experiment.json", experiment.to_json(), "another experiment")
    path = directory / "run.json"
    return Run(directory, read_object(path)) if path.exists() else None


def _agree(path: Path, wanted: dict, what: str) -> None:
    """Write `wanted` to `path`, or find it there already; refuse a folder that holds something else, with the diff."""
    wanted = record.plain(wanted)
    if not path.exists():
        record.write_json(path, wanted)
    elif changes := record.diff(read_object(path), wanted):
        lines = "\n  ".join(changes)
        raise InputError(f"{path.parent} holds {what}; choose another --out, or undo the change:\n  {lines}")


def _run(job: Job, directory: Path, journal: Journal, stop: StopFlag) -> dict:
    """Score, train, score again, write; returns the record."""
    checkpoints, scorer = Checkpoints(directory / "checkpoints"), Scorer(job, stop.check)
    journal.tell("start", 0, parameters=parameter_counts(job), steps=job.steps, notes=list(job.notes))
    with journal.clock("scoring"):
        before = scorer.test(job.base)
    state, history = _start(job, checkpoints, scorer, journal)
    state, stopped = _train(job, state, history, checkpoints, scorer, journal, stop)
    best_step = history[retention.best(history)]["step"]
    kept = state
    if job.experiment.retention.keep == "best" and best_step != int(state.step):
        kept = checkpoints.restore(jax.eval_shape(job.trainable.init), best_step).tree
    params = finished_params(job.experiment.method, job.base, kept.theta)
    with journal.clock("scoring"):
        after = scorer.test(params)
    with journal.clock("saving"):
        models.save(job.checkpoint._replace(params=params), directory / "model", primary=job.new.task.name)
    changes = {name: scorer.change(name, before[name], after[name]) for name in job.tasks}
    ended = {
        "steps": int(state.step),
        "best_step": best_step,
        "kept_step": int(kept.step),
        "stopped": stopped,
        "skipped_steps": int(state.skipped),
    }
    return _write(job, directory, journal, changes, history, ended)


def _start(job: Job, checkpoints: Checkpoints, scorer: Scorer, journal: Journal) -> tuple[TrainState, list[dict]]:
    """The latest good step and the history up to it, or step 0 and the base's own scores."""
    if checkpoints.steps():
        step, state, extra = checkpoints.restore(jax.eval_shape(job.trainable.init))
        for warning in checkpoints.warnings:
            journal.say(f"warning: {warning}")
        journal.resume(step, extra["seconds"])
        journal.say(f"resuming at step {step} of {job.steps}")
        return state, extra["history"]
    state, history = job.trainable.init(), []
    _score(job, state, history, scorer, journal, None)
    _save(state, history, checkpoints, journal)
    return state, history


def _train(
    job: Job,
    state: TrainState,
    history: list[dict],
    checkpoints: Checkpoints,
    scorer: Scorer,
    journal: Journal,
    stop: StopFlag,
) -> tuple[TrainState, str]:
    """The only loop: step, and every so often score both tasks, save, and decide whether to stop."""
    optim, settings = job.experiment.optim, job.experiment.retention
    data = job.new
    batches = TrainBatches(
        data.splits["train"], optim.batch_size * optim.accumulate, job.experiment.seed, data.train_lengths, data.pad_id
    )
    every = settings.eval_every or max(1, job.steps // SCORINGS)
    step, waiting, values = int(state.step), None, None
    while step < job.steps:
        if retention.should_stop(history, settings.patience):
            return state, "patience"
        with journal.clock("train"):
            host = batches.batch(step)
            micro = {k: v.reshape(optim.accumulate, optim.batch_size, *v.shape[1:]) for k, v in host.items()}
            state, metrics = job.step(state, job.base, job.aux, {"new": micro})
            # Read one step late, the numbers do not keep the device waiting for the host.
            values = _look_at(step, waiting, job, journal) or values
            step, waiting = step + 1, metrics
            due = step % every == 0 or step == job.steps
            if due or stop.requested:
                values, waiting = _look_at(step, waiting, job, journal), None
        broken = values is not None and values["skipped_in_a_row"] >= MOST_SKIPPED_IN_A_ROW
        if due and not broken:
            _score(job, state, history, scorer, journal, values["loss"])
        if due or broken or stop.requested:
            _save(state, history, checkpoints, journal)
            stop.check()
        if broken:
            raise InputError(
                f"the loss or its gradient was not finite {MOST_SKIPPED_IN_A_ROW} steps in a row, up to step {step}: "
                f"lower --lr (now {optim.lr:g}). The last good state is kept in {checkpoints.folder}"
            )
    return state, "steps"


def _look_at(step: int, metrics: dict | None, job: Job, journal: Journal) -> dict[str, float] | None:
    """Tell the metrics of a step, and return them as numbers; one step in a hundredth of the run is kept."""
    if metrics is None:
        return None
    values = {name: float(value) for name, value in metrics.items()}
    fields = {"steps": job.steps, **values}
    if step % max(1, job.steps // LOGGED_STEPS) == 0:
        journal.tell("step", step, **fields)
    else:
        journal.emit({"event": "step", "step": step, **fields})
    return values


def _score(
    job: Job, state: TrainState, history: list[dict], scorer: Scorer, journal: Journal, loss: float | None
) -> None:
    """Append the scores of a state to the history."""
    with journal.clock("scoring"):
        params = finished_params(job.experiment.method, job.base, state.theta)
        scores = scorer.probe(params, history[0] if history else None)
    entry = {"step": int(state.step), **scores, "loss": loss, "seconds": sum(journal.seconds.values())}
    history.append(entry)
    journal.tell("score", **entry)


def _save(state: TrainState, history: list[dict], checkpoints: Checkpoints, journal: Journal) -> None:
    with journal.clock("saving"):
        best = history[retention.best(history)]["step"]
        extra = {"history": history, "seconds": journal.seconds, "best": best}
        checkpoints.save(int(state.step), state, extra, best=best)


def _write(job: Job, directory: Path, journal: Journal, changes: dict, history: list[dict], ended: dict) -> dict:
    """The report and, last, run.json."""
    from fft.report import page, plots

    experiment = job.experiment
    tolerance = experiment.retention.tolerance
    verdict = retention.verdict(changes["original"], tolerance) if job.original else None
    sign = Scorer(job, lambda: None).metric("original").sign if job.original else 1
    result = {
        "name": experiment.method.label,
        "experiment": experiment.to_json(),
        "experiment_hash": record.experiment_hash(experiment.to_json()),
        **record.environment(),
        "base_sha256": job.identity["base_sha256"],
        "data": {
            name: {
                "source": getattr(experiment, name).source,
                "splits": data.identity,
                "warnings": list(data.warnings),
            }
            for name, data in job.tasks.items()
        },
        "heads": {name: head._asdict() for name, head in job.checkpoint.heads.items()},
        "parameters": parameter_counts(job),
        "notes": list(job.notes),
        **ended,
        "history": history,
        "crossover": retention.crossover(history, tolerance, sign),
        "original": changes["original"]._asdict() if job.original else None,
        "new": changes["new"]._asdict(),
        "verdict": verdict and verdict._asdict(),
        "seconds": {**journal.seconds, "total": sum(journal.seconds.values())},
    }
    result = record.plain(result)
    plots.history(result, directory / "history")
    page.write_page(result, directory / "report.html")
    journal.tell("end", ended["steps"], verdict=result["verdict"])
    record.write_json(directory / "run.json", result)
    return result
