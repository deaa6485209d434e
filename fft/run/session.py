"""A run in progress: its job, its training state and its history of scores."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from fft.core.signals import StopFlag
from fft.disk.checkpoint import Checkpoints
from fft.disk.folder import CHECKPOINTS
from fft.disk.journal import Journal
from fft.run.job import Job
from fft.run.scoring import Scorer
from fft.stats import retention
from fft.training.state import TrainState, result_field
from fft.training.trainable import parameter_counts

LOGGED_STEPS = 100


class Session:
    """The state that the parts of a run share. It starts at the latest good step in the folder, or at step 0."""

    state: TrainState
    """of the last step; deleted once the kept step is chosen"""
    history: list[dict[str, Any]]
    """the scores on the probe so far, the base's first; see `fft.stats.retention`"""

    def __init__(self, job: Job, directory: Path, journal: Journal, stop: StopFlag) -> None:
        self.job, self.directory, self.journal, self.stop = job, directory, journal, stop
        self.checkpoints = Checkpoints(directory / CHECKPOINTS)
        self.scorer = Scorer(job, stop.check)
        self.state, self.history = self._resumed()
        journal.tell(
            "start",
            self.step,
            parameters=parameter_counts(job.base, job.trainable),
            steps=job.steps,
            notes=list(job.notes),
        )

    @property
    def step(self) -> int:
        """The number of steps taken."""
        return int(self.state.step)

    def _resumed(self) -> tuple[TrainState, list[dict[str, Any]]]:
        """Load the latest good step and the history up to it; later events are removed from the journal."""
        job, journal = self.job, self.journal
        if not self.checkpoints.steps():
            journal.resume(-1, {})
            return job.trainable.init(), []
        step, state, extra = self.checkpoints.restore(jax.eval_shape(job.trainable.init))
        for warning in self.checkpoints.warnings:
            journal.say(f"warning: {warning}")
        events = [("score", entry["step"]) for entry in extra["history"]]
        events += [("step", taken) for taken in range(1, step + 1) if self.is_logged(taken)]
        journal.resume(step, extra["seconds"], events)
        journal.say(f"resuming at step {step} of {job.steps}")
        return state, extra["history"]

    def is_logged(self, step: int) -> bool:
        """Whether the metrics of a step are logged; about LOGGED_STEPS steps of a run are."""
        return step % max(1, self.job.steps // LOGGED_STEPS) == 0

    @property
    def best_step(self) -> int:
        """The step with the best combined score on the probe."""
        return self.history[retention.best(self.history)]["step"]

    def test_base(self, known: dict[str, dict]) -> dict[str, np.ndarray]:
        """Return the base's logits [N, C] on the tasks' test rows; see `Scorer.base_test`."""
        with self.journal.clock("scoring", "scoring the base on the test rows"):
            return self.scorer.base_test(known)

    def score(self, loss: float | None) -> None:
        """Score the state on the probe and append the scores to the history; `loss` is that of its step."""
        with self.journal.clock("scoring", f"scoring step {self.step} on the probe"):
            params = self.job.finished(self.state) if self.history else self.job.base
            scores = self.scorer.probe(params, self.history[0] if self.history else None)
        seconds = sum(self.journal.seconds.values())
        self.history.append({"step": self.step, **scores, "loss": loss, "seconds": seconds})
        self.journal.tell("score", **self.history[-1])

    def save(self) -> None:
        """Save the state with the history, so that a killed run can resume from here."""
        with self.journal.clock("saving", f"saving step {self.step}"):
            extra = {"history": self.history, "seconds": self.journal.seconds, "best": self.best_step}
            lasting = result_field(self.state.average is not None)
            self.checkpoints.save(self.step, self.state, extra, self.best_step, lasting)
        self.journal.emit({"event": "save", "step": self.step})
