"""Score a run's tasks: on a fixed validation probe during training, and on the test splits before and after it."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np

from fft.core.naming import ORIGINAL
from fft.core.tree import Params
from fft.data import Encoded, TaskData, bucket_lengths, eval_batches
from fft.data.streams import held_out_sample
from fft.evaluate.predict import predict, score_batch
from fft.evaluate.predictor import make_predict
from fft.models.identity import base_sha256
from fft.run.job import Job
from fft.stats import retention
from fft.stats.budget import JUDGED
from fft.stats.intervals import Change, Interval, change_between, first_score, interval, predictions
from fft.stats.metrics import METRICS, Metric

BEYOND = 1e6  # weight of a drop beyond the contract in the combined score: no new score makes up for it


class Tested(NamedTuple):
    """The result of a task on its test split: the change of its score, and the final score with its interval."""

    change: Change
    score: Interval


class Scorer:
    """Scores parameters on a job's tasks, with one compiled program for each head and padded length."""

    def __init__(self, job: Job, poll: Callable[[], None] = lambda: None) -> None:
        self.job, self.poll = job, poll
        self._probes = self._validation(job.experiment.retention.probe)
        self._judged = {} if job.watch is None else self._validation(JUDGED)
        # The tasks have the same padded lengths, so that tasks with a common head share its compiled programs.
        scored = [*self._probes.values(), *self._judged.values(), *(data.splits["test"] for data in job.tasks.values())]
        self._lengths = bucket_lengths(np.concatenate([rows.lengths() for rows in scored]))
        model, tasks = job.checkpoint.model, {data.task for data in job.tasks.values()}
        self._predictors = {task: make_predict(model, task, self._lengths) for task in tasks}

    def _validation(self, most: int) -> dict[str, Encoded]:
        """Return the `held_out_sample` of each task's validation rows."""
        tasks = self.job.tasks.items()
        return {name: held_out_sample(data.splits["validation"], most) for name, data in tasks}

    def metric(self, name: str) -> Metric:
        """Return the metric of a task of the job."""
        return METRICS[self.job.tasks[name].task.metric]

    def probe(self, params: Params, base: dict | None) -> dict:
        """Return the scores on the probe, {'new', 'original', …, 'combined'}.

        `base` are the base's own scores, None when the base itself is scored. The combined score is the new score less
        the weighted drops of the original tasks beyond their tolerances. A fresh head has no score before it is
        trained: the base's new score is then None, and counts as worse than any other. A stop signal does not interrupt
        this, so that a state is saved together with its score.
        """
        scores: dict[str, float | None] = {"new": None, ORIGINAL: None}
        probes = {name: rows for name, rows in self._probes.items() if base is not None or not self._starts_fresh(name)}
        scores |= self._scores(params, probes, lambda: None)
        weight = self.job.experiment.retention.drop_weight if self.job.watch is None else BEYOND
        combined = self._signed("new", scores) if "new" in probes else retention.below_all(self.metric("new"))
        for name, tolerance in self.job.tolerances.items():
            now, before = self._signed(name, scores), self._signed(name, base or scores)
            combined = retention.combined_score(combined, now, before, weight, tolerance)
        return {**scores, "combined": retention.combined_score(combined, None, None, weight, 0.0)}

    def judge(self, params: Params, tasks: Collection[str]) -> dict[str, float]:
        """Return the scores of some tasks on up to JUDGED validation rows of each, for a run under a contract."""
        return self._scores(params, {name: self._judged[name] for name in tasks}, self.poll)

    def _scores(self, params: Params, chosen: dict[str, Encoded], poll: Callable[[], None]) -> dict[str, float]:
        scores = {}
        for name, rows in chosen.items():
            metric = self.metric(name)
            logits = self._logits(params, self.job.tasks[name], rows, poll)
            scores[name] = float(metric.function(rows.labels, predictions(metric.kind, logits)))
        return scores

    def test(self, params: Params) -> dict[str, np.ndarray]:
        """Return the logits [N, C] on each task's test split."""
        return self._test(params, self.job.tasks)

    def base_test(self, known: dict[str, dict]) -> dict[str, np.ndarray]:
        """Return `test` of the base without a task whose head is fresh, cached in `known` for runs on the same base,
        heads and rows.
        """
        tasks = {name: data for name, data in self.job.tasks.items() if not self._starts_fresh(name)}
        digest = hashlib.sha256(repr((base_sha256(self.job.checkpoint), self.job.checkpoint.raw_config)).encode())
        for name, data in tasks.items():
            test = data.splits["test"]
            digest.update(repr((name, data.task, test.lengths().tolist(), self._lengths)).encode())
            digest.update(np.concatenate([*test.ids, *test.types]).data)
        key = digest.hexdigest()
        if key not in known:
            known[key] = self._test(self.job.base, tasks)
        return known[key]

    def _test(self, params: Params, tasks: Mapping[str, TaskData]) -> dict[str, np.ndarray]:
        return {name: self._logits(params, data, data.splits["test"], self.poll) for name, data in tasks.items()}

    def tested(self, name: str, before: np.ndarray | None, after: np.ndarray) -> Tested:
        """Return a task's result from its test logits before and after training; a fresh head has none before."""
        metric, labels = self.metric(name), self.job.tasks[name].splits["test"].labels
        guesses = predictions(metric.kind, after)
        if before is None:
            change = first_score(metric, labels, guesses)
        else:
            change = change_between(metric, labels, before, after)
        return Tested(change, interval(metric, labels, guesses))

    def _starts_fresh(self, name: str) -> bool:
        """Whether a task's head is fresh, so that the base has no score on it."""
        return name == "new" and bool(self.job.fresh_heads)

    def _signed(self, name: str, scores: dict) -> float:
        """Return a task's score with the sign at which higher is better."""
        return self.metric(name).sign * scores[name]

    def _logits(self, params: Params, data: TaskData, rows: Encoded, poll: Callable[[], None]) -> np.ndarray:
        batches = eval_batches(rows, score_batch(rows, self._lengths), self._lengths, data.pad_id)
        return rows.summed(predict(self._predictors[data.task], params, batches, len(rows.ids), poll))
