"""What came out of a run: run.json, its page and its pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from fft import models
from fft.adapters.adapter import trained_adapter
from fft.core.naming import ORIGINAL, agreeing, counted
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
from fft.training.trainable import parameter_counts


def finish(session: Session, before: dict[str, np.ndarray], trained: Trained, kept: Kept) -> dict[str, Any]:
    """Score what is kept on the test rows, write it, the pictures, the page and, last, run.json; returns the record.

    `before` are the base's logits on the test rows, by task.
    """
    job, directory, journal = session.job, session.directory, session.journal
    with journal.clock("scoring", "scoring the test rows"):
        after = session.scorer.test(kept.params)
    with journal.clock("saving", "writing the model"):
        written = write_model(job, directory, kept.params, kept.theta, journal.say)
        if kept.left:
            save_artefact(directory / LEFT, kept.left, {"method": job.experiment.method.label, "step": kept.step})
        save_rows(job, directory)
    with doing("intervals and pictures"):
        tested = {name: session.scorer.tested(name, before[name], after[name]) for name in job.tasks}
        ended = {**trained._asdict(), "kept_step": kept.step, "contract": kept.contract}
        record = run_record(job, tested, session.history, ended, written, journal.seconds)
        write_outcome(directory, record)
    journal.tell("end", trained.steps, verdict=record["verdict"])
    return record


def run_record(
    job: Job,
    tested: dict[str, Tested],
    history: list[dict],
    ended: dict,
    written: Sequence[str],
    seconds: dict[str, float],
) -> dict:
    """What run.json says, as plain JSON data.

    `tested` are the tasks on their test splits, `ended` holds steps, best_step, kept_step, stopped, skipped_steps and
    contract (None without one), `written` what `write_model` told, `seconds` the wall time of each part.
    """
    experiment = job.experiment
    verdicts = {name: retention.verdict(tested[name].change, accepted) for name, accepted in job.tolerances.items()}
    result = {
        "name": experiment.method.label,
        "experiment": experiment.to_json(),
        "experiment_hash": experiment_hash(experiment.to_json()),
        **environment(),
        "base_sha256": job.identity["base_sha256"],
        "data": {
            name: {
                "source": experiment.sources[name].source,
                "splits": data.identity,
                "warnings": list(data.warnings),
                **({"head": data.task.name} if name in job.tasks else {}),
            }
            for name, data in job.data.items()
        },
        "heads": {name: head._asdict() for name, head in job.checkpoint.heads.items()},
        "parameters": parameter_counts(job.base, job.trainable),
        "notes": [*job.notes, *_kept_note(ended), *written],
        **ended,
        "history": history,
        "crossover": _crossover(job, history),
        ORIGINAL: None,
        **{name: task.change._asdict() for name, task in tested.items()},
        "scores": {name: task.score._asdict() for name, task in tested.items()},
        **_judged(verdicts),
        "seconds": {**seconds, "total": sum(seconds.values())},
    }
    return plain(result)


def _judged(verdicts: dict[str, retention.Verdict]) -> dict:
    """Each original task's verdict, and that of all of them: the first that is as bad as the worst."""
    if not verdicts:
        return {"verdict": None, "verdicts": {}}
    outcome = retention.overall([verdict.outcome for verdict in verdicts.values()])
    told = {name: verdict._asdict() for name, verdict in verdicts.items()}
    return {"verdict": next(v for v in told.values() if v["outcome"] == outcome), "verdicts": told}


def _crossover(job: Job, history: list[dict]) -> int | None:
    """The first step at which an original task is beyond its tolerance."""
    signs = {name: METRICS[job.tasks[name].task.metric].sign for name in job.tolerances}
    crossed = [retention.crossover(history, most, signs[name], name) for name, most in job.tolerances.items()]
    return min((step for step in crossed if step is not None), default=None)


def _kept_note(ended: dict) -> list[str]:
    if ended["contract"] is not None:
        return [contract_sentence(ended["contract"])]
    return [KEPT_BASE] if ended["kept_step"] == 0 else []


def write_model(
    job: Job, directory: Path, params: Params, theta: Params, say: Callable[[str], None]
) -> tuple[str, ...]:
    """What the run keeps: MODEL, a checkpoint for transformers, or, where none can hold it, ADAPTER, PEFT's files.

    `params` are the merged parameters, `theta` the tree they were merged from. Returns what is to be told of it, which
    `say` has told.
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
    """That a model is stored with fewer bits than it was trained and scored with, and how many of the weights that
    training changed the rounding sets back; nothing for float32. Both trees are of float32 arrays.
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
    said = f"the scores are of the float32 weights, {MODEL}/ holds them in {dtype}, as the base is stored"
    return (said + lost * bool(changed),)


def write_outcome(directory: Path, result: dict) -> None:
    """The pictures, the page and, last, run.json: a folder that has it is a finished run."""
    from fft.report.drawing import save, svg
    from fft.report.history import history_chart
    from fft.report.page import write_page

    keep_a_home()
    picture = svg(history_chart(result))
    save(picture, directory / "history")
    write_page(result, directory / "report.html", picture)
    write_json(directory / "run.json", result)
