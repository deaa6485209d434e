"""The results of a run: the model, run.json, the report page and the pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from fft import models
from fft.adapters.adapter import trained_adapter
from fft.core.naming import agreeing, counted
from fft.core.progress import doing
from fft.core.tree import Params, flatten
from fft.disk.artefact import save_artefact
from fft.disk.environment import environment
from fft.disk.files import experiment_hash, plain, write_json
from fft.disk.folder import ADAPTER, LEFT, MODEL
from fft.disk.surroundings import keep_a_home
from fft.report.contract import contract_sentence
from fft.run.job import Job
from fft.run.kept import KEPT_BASE, Kept
from fft.run.loop import Trained
from fft.run.scoring import Tested
from fft.run.seen import save_rows
from fft.run.session import Session
from fft.stats import retention
from fft.stats.metrics import METRICS
from fft.stats.records import ContractRecord, DataRecord, RunRecord
from fft.training.trainable import parameter_counts


def finish(session: Session, before: dict[str, np.ndarray], trained: Trained, kept: Kept) -> dict[str, Any]:
    """Score the kept model on the test rows, and write it, the pictures, the page and, last, run.json.

    `before` are the base's logits on the test rows, by task; none for a task whose head is fresh. Returns the content
    of run.json.
    """
    job, directory, journal = session.job, session.directory, session.journal
    with journal.clock("scoring", "scoring the test rows"):
        after = session.scorer.test(kept.params)
    with journal.clock("saving", "writing the model"):
        model_notes = write_model(job, directory, kept.params, kept.theta, journal.say)
        if kept.left:
            save_artefact(directory / LEFT, kept.left, {"method": job.experiment.method.label, "step": kept.step})
        save_rows(job, directory)
    with doing("intervals and pictures"):
        tested = {name: session.scorer.tested(name, before.get(name), after[name]) for name in job.tasks}
        record = run_record(
            job, tested, session.history, trained, kept.step, kept.contract, model_notes, journal.seconds
        )
        write_outcome(directory, record)
    journal.tell("end", trained.steps, verdict=record["verdict"])
    return record


def run_record(
    job: Job,
    tested: dict[str, Tested],
    history: list[dict],
    trained: Trained,
    kept_step: int,
    contract: ContractRecord | None,
    model_notes: Sequence[str],
    seconds: dict[str, float],
) -> dict:
    """Return the content of run.json, as plain JSON data.

    `tested` are the results on the test splits by task, `model_notes` the notes of `write_model`, `seconds` the wall
    time of each part.
    """
    experiment = job.experiment
    verdicts = {name: retention.verdict(tested[name].change, accepted) for name, accepted in job.tolerances.items()}
    return RunRecord(
        environment=environment(),
        name=experiment.method.label,
        experiment=experiment.to_json(),
        experiment_hash=experiment_hash(experiment.to_json()),
        base_sha256=job.identity["base_sha256"],
        data={name: _data_record(job, name) for name in job.data},
        heads=job.checkpoint.heads,
        parameters=parameter_counts(job.base, job.trainable),
        notes=[*job.notes, *_kept_note(job, kept_step, contract), *model_notes],
        steps=trained.steps,
        best_step=trained.best_step,
        kept_step=kept_step,
        contract=contract,
        stopped=trained.stopped,
        skipped_steps=trained.skipped_steps,
        history=history,
        crossover=_crossover(job, history),
        changes={name: task.change for name, task in tested.items()},
        scores={name: task.score for name, task in tested.items()},
        verdict=_worst(verdicts),
        verdicts=verdicts,
        seconds={**seconds, "total": sum(seconds.values())},
    ).to_json()


def _data_record(job: Job, name: str) -> DataRecord:
    data = job.data[name]
    head = data.task.name if name in job.tasks else None
    return DataRecord(job.experiment.sources[name].source, data.identity, tuple(data.warnings), head)


def _worst(verdicts: dict[str, retention.Verdict]) -> retention.Verdict | None:
    """Return the worst verdict of all original tasks, the first of equals; None without an original task."""
    if not verdicts:
        return None
    outcome = retention.overall([verdict.outcome for verdict in verdicts.values()])
    return next(verdict for verdict in verdicts.values() if verdict.outcome == outcome)


def _crossover(job: Job, history: list[dict]) -> int | None:
    """Return the first step at which an original task's drop exceeds its tolerance, or None."""
    signs = {name: METRICS[job.tasks[name].task.metric].sign for name in job.tolerances}
    crossed = [retention.crossover(history, drop, signs[name], name) for name, drop in job.tolerances.items()]
    return min((step for step in crossed if step is not None), default=None)


def _kept_note(job: Job, kept_step: int, contract: ContractRecord | None) -> list[str]:
    if contract is not None:
        return [contract_sentence(plain(contract), {name: job.tasks[name].task.metric for name in job.tolerances})]
    return [KEPT_BASE] if kept_step == 0 else []


def write_model(
    job: Job, directory: Path, params: Params, theta: Params, say: Callable[[str], None]
) -> tuple[str, ...]:
    """Write the run's model: MODEL, a checkpoint for transformers, or ADAPTER, PEFT's files, where no checkpoint can
    hold it.

    `params` are the merged parameters, `theta` the tree they were merged from. Returns notes for the record, which
    `say` has shown.
    """
    if job.experiment.method.tree.plain or params is job.base:
        models.save(job.checkpoint._replace(params=params), directory / MODEL, primary=job.tasks["new"].task.name)
        notes = rounding_note(job.base, params, job.checkpoint.raw_config["dtype"])
        for note in notes:
            say(f"note: {note}")
        return notes
    from fft.adapters import save_adapter

    adapter = trained_adapter(job.experiment.method, job.checkpoint, theta)
    save_adapter(adapter, job.checkpoint, directory / ADAPTER, job.experiment.model.removeprefix("hf:"))
    return ()


def rounding_note(base: Params, params: Params, dtype: str) -> tuple[str, ...]:
    """Return a note that the model is stored in fewer bits than it was scored in, and how many of the weights that
    training changed are rounded back to the base's; no note for float32. Both trees hold float32 arrays.
    """
    if dtype == "float32":
        return ()
    changed = same = 0
    for before, after in zip(flatten(base).values(), flatten(params).values(), strict=True):
        before, after = np.asarray(before), np.asarray(after)
        moved = before != after
        changed += int(moved.sum())
        same += int((before[moved].astype(jnp.dtype(dtype)) == after[moved].astype(jnp.dtype(dtype))).sum())
    lost = (
        f": {same:,} of {counted(changed, 'weight')} that training changed {agreeing(same, 'is', 'are')} the same once "
        f"rounded to {dtype}; a base in float32 would keep them"
    )
    note = f"the scores are of the float32 weights, {MODEL}/ holds them in {dtype}, as the base is stored"
    return (note + lost * bool(changed),)


def write_outcome(directory: Path, result: dict) -> None:
    """Write the pictures, the page and, last, run.json, which marks the run as finished."""
    from fft.report.drawing import save, svg
    from fft.report.history import history_chart
    from fft.report.page import write_page

    keep_a_home()
    picture = svg(history_chart(result))
    save(picture, directory / "history")
    write_page(result, directory / "report.html", picture)
    write_json(directory / "run.json", result)
