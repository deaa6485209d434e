"""What came out of a run: run.json, its page and its pictures."""

from pathlib import Path

from fft import models, record, retention
from fft.adapters import trained_adapter
from fft.contract import selection
from fft.evaluate import Change, Interval
from fft.folder import ADAPTER, MODEL
from fft.job import Job
from fft.metrics import METRICS
from fft.naming import ORIGINAL
from fft.paths import Params
from fft.trainable import parameter_counts

KEPT_BASE = "no scored step beat the base: the base is kept, step 0; --keep latest would keep the last step"


def run_record(
    job: Job,
    changes: dict[str, Change],
    scores: dict[str, Interval],
    history: list[dict],
    ended: dict,
    seconds: dict[str, float],
) -> dict:
    """What run.json says, as plain JSON data.

    `changes` are before and after of each task on its test split, `scores` the latter alone; `ended` holds steps,
    best_step, kept_step, stopped, skipped_steps and contract (None without one), `seconds` the wall time of each part.
    """
    experiment = job.experiment
    verdicts = {name: retention.verdict(changes[name], accepted) for name, accepted in job.tolerances.items()}
    result = {
        "name": experiment.method.label,
        "experiment": experiment.to_json(),
        "experiment_hash": record.experiment_hash(experiment.to_json()),
        **record.environment(),
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
        "notes": [*job.notes, *_kept_note(ended)],
        **ended,
        "history": history,
        "crossover": _crossover(job, history),
        ORIGINAL: None,
        **{name: change._asdict() for name, change in changes.items()},
        "scores": {name: score._asdict() for name, score in scores.items()},
        **_judged(verdicts),
        "seconds": {**seconds, "total": sum(seconds.values())},
    }
    return record.plain(result)


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
        return [selection.sentence(ended["contract"])]
    return [KEPT_BASE] if ended["kept_step"] == 0 else []


def write_model(job: Job, directory: Path, params: Params, theta: Params) -> None:
    """What the run keeps: MODEL, a checkpoint for transformers, or, where none can hold it, ADAPTER, PEFT's files.

    `params` are the merged parameters, `theta` the tree they were merged from.
    """
    if job.experiment.method.plain or params is job.base:
        models.save(job.checkpoint._replace(params=params), directory / MODEL, primary=job.tasks["new"].task.name)
        return
    from fft.peft import save_adapter

    adapter = trained_adapter(job.experiment.method, job.checkpoint, theta)
    save_adapter(adapter, job.checkpoint, directory / ADAPTER, job.experiment.model.removeprefix("hf:"))


def write_outcome(directory: Path, result: dict) -> None:
    """The pictures, the page and, last, run.json: a folder that has it is a finished run."""
    from fft.report import page
    from fft.report.history import history

    history(result, directory / "history")
    page.write_page(result, directory / "report.html")
    record.write_json(directory / "run.json", result)
