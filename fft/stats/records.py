"""The JSON files that commands write: one dataclass per file, whose fields are its keys; see docs/records.md.

    RunRecord        run.json         of `fft tune`
    SequenceRecord   sequence.json    of `fft sequence`
    CheckRecord      check.json       of `fft check`
    DiagnoseRecord   diagnose.json    of `fft diagnose`
    RepairRecord     repair.json      of `fft repair`
    MergeRecord      merge.json       of `fft merge`
    FisherRecord     provenance.json  of `fft fisher`

Numbers that are not finite are null in the files. A `+` in a change is better, whatever the metric. Files that lack a
field are older than it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fft.core.naming import ORIGINAL
from fft.disk.environment import Environment
from fft.disk.files import plain
from fft.stats.damage import LabelChange
from fft.stats.intervals import Change, Estimate, Interval
from fft.stats.retention import Verdict


@dataclass(frozen=True)
class Record:
    """The fields of every record."""

    environment: Environment
    """git, versions and device, each a key of its own: {commit, dirty} of the fft that ran (null outside a checkout),
    {python, package: version}, {platform, kind, count, threads}"""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON data."""
        fields = {name: plain(value, name) for name, value in vars(self).items() if name != "environment"}
        return fields | plain(self.environment)


@dataclass(frozen=True)
class DataRecord:
    """data: a task's data as read by the run; texts without labels have no head."""

    source: str
    """as given on the command line"""
    splits: Mapping[str, Any]
    """{train, validation, test: {rows, sha256}}, those that the command reads"""
    warnings: tuple[str, ...] = ()
    """rows that were dropped or cut, and oddities"""
    head: str | None = None
    """the task's head in the checkpoint"""


@dataclass(frozen=True)
class ContractRecord:
    """contract: the result of --max-drop."""

    max_drop: str | list[str] | None
    """as given: one for all original tasks, or one each"""
    margin: float
    """the accepted drop of the first original task, in units of its score"""
    margins: Mapping[str, float]
    """the same of each original task"""
    met: bool
    """whether a trained point is within the margins; otherwise the base becomes the model"""
    strength: float
    """the multiplier m of the method's terms at the end"""
    kept: Any
    """the point that became the model: {step, alpha, original, new, drop, drops, within}, scores on validation rows"""
    tried: list[Any]
    """all points that were scored, in the same form; new is null if a point is not within the margins"""


@dataclass(frozen=True)
class RunRecord(Record):
    """run.json: its presence means that the run is finished."""

    name: str
    """the method, as in "lora+ewc\""""
    experiment: dict[str, Any]
    """the resolved experiment, as in experiment.json"""
    experiment_hash: str
    """sha256 of its canonical JSON"""
    base_sha256: str
    """hash of the base's weights"""
    data: Mapping[str, DataRecord]
    """{new, original, original_2, …, unlabelled: {source, splits, warnings, head}}, as far as they were given"""
    heads: Mapping[str, Any]
    """{name: {kind, labels}}"""
    parameters: dict[str, Any]
    """{total, trained, percent, table: [{path, shape, trained, multiplier}]}"""
    notes: list[str]
    """dropped rows, a fitted head, warnings of all tasks"""
    steps: int
    """optimizer steps taken"""
    best_step: int
    """the step with the best combined score on the probe"""
    kept_step: int
    """the step that became model/: best_step, with --keep latest the last one, with --max-drop the contract's choice"""
    contract: ContractRecord | None
    """null without --max-drop"""
    stopped: str
    """"steps" (all of them) or "patience\""""
    skipped_steps: int
    """steps whose objective or gradient was not finite, which changed nothing"""
    history: list[dict[str, Any]]
    """[{step, new, original, original_2, …, combined, loss, seconds}] on the probe; the first entry is the base, with
    new null if the head is fresh"""
    crossover: int | None
    """the first scored step at which the drop of an original task on the probe exceeds its tolerance"""
    changes: Mapping[str, Change]
    """new, original, original_2, …, each a key of its own: {metric, before, after, change, low, high, n, mcnemar_p,
    changed, undefined} on the test split; original is null without an original task. For a fresh head only after, n and
    metric have values"""
    scores: Mapping[str, Interval]
    """{new, original, …: {value, low, high, n}}, the final score with its own interval"""
    verdict: Verdict | None
    """the first verdict with the outcome of all verdicts together; null without an original task"""
    verdicts: Mapping[str, Verdict]
    """{original, original_2, …: {outcome, tolerance, drop, drop_low, drop_high, needed, reason}}"""
    seconds: Mapping[str, float]
    """{prepare, train, scoring, saving, total}, wall time"""

    def to_json(self) -> dict[str, Any]:
        fields = super().to_json()
        changes = {ORIGINAL: None} | fields.pop("changes")
        return fields | changes


@dataclass(frozen=True)
class SequenceTaskRecord:
    """tasks: the tasks in the order of learning."""

    name: str
    """task_1, task_2, …"""
    source: str
    """its data, as given on the command line"""
    head: str
    """its head in the checkpoint"""
    metric: str
    """the metric of its scores"""
    n: int
    """test rows"""
    sha256: str
    """hash of the test rows"""


@dataclass(frozen=True)
class StageRecord:
    """stages: a summary of each; the run.json in its folder has all fields."""

    folder: str
    """stage-1, stage-2, …"""
    seconds: float
    """wall time"""
    lost: Mapping[str, float]
    """the drop of every earlier task whose verdict is fail"""
    name: str
    """the method of the stage"""
    kept_step: int
    """as in run.json, like the next four"""
    verdict: dict[str, Any] | None
    verdicts: dict[str, Any]
    contract: dict[str, Any] | None
    notes: list[str]


@dataclass(frozen=True)
class SequenceRecord(Record):
    """sequence.json: its presence means that the sequence is finished."""

    name: str
    """the method"""
    outcome: str
    """"pass", "fail" or "undecided": the worst of all stages"""
    plan: dict[str, Any]
    """the settings, as in plan.json"""
    tasks: list[SequenceTaskRecord]
    """[{name, source, head, metric, n, sha256}] in the order of learning"""
    rows: list[str]
    """names of the rows of the matrix: base, after task_1, …"""
    matrix: Any
    """R[i][j]: the score on task j after task i, row 0 is the base; null if the model has no head for the task"""
    average_accuracy: Estimate | None
    """{value, low, high}; the measures are explained in docs/sequence.md"""
    backward_transfer: Estimate | None
    """likewise"""
    forward_transfer: Estimate | None
    """likewise; null if every task has its own head"""
    forgetting: Estimate | None
    """likewise"""
    stages: list[StageRecord]
    """[{folder, seconds, lost, name, kept_step, verdict, verdicts, contract, notes}]"""
    notes: list[str]
    """notes on the base and the data"""
    seconds: float
    """wall time of all stages"""


@dataclass(frozen=True)
class ExampleRecord:
    """worse, better: the examples with different predictions of the two models."""

    row: int
    """its number in the source, from 1"""
    text: str
    pair: str | None
    """the second text of a pair"""
    label: Any
    """the label in the data"""
    base: Any
    """the base's prediction"""
    tuned: Any
    """the tuned model's prediction"""


@dataclass(frozen=True)
class CheckedTaskRecord:
    """original, new: the tasks on which both models were scored."""

    source: str
    """as given on the command line"""
    sha256: str
    """hash of the rows"""
    heads: Mapping[str, str | None]
    """{base, tuned}: names; base is null if it has no head for the task"""
    score: Mapping[str, Any]
    """{metric, value, low, high, n}: the tuned model's, with its own interval"""
    change: Change | None
    """from base to tuned, as in run.json; null if the base has no score"""
    labels: list[LabelChange]
    """[{label, n, before, after, change, low, high, lost, gained}], the greatest loss first; empty for regression"""
    worse: list[ExampleRecord]
    """[{row, text, pair, label, base, tuned}]: newly wrong; for a regression the 100 whose error grew most"""
    better: list[ExampleRecord]
    """the same for those newly right, or whose error shrank most"""
    notes: list[str]
    """rows that were in training, dropped rows, models with equal predictions"""
    divergence: Interval | None = None
    """of a language task the mean KL(base || tuned) of the supervised tokens in nats, {value, low, high, n}"""
    samples: list[ExampleRecord] = field(default_factory=list)
    """of a task with prompts the first five, with what both models write: {row, text: the prompt, pair, label: the
    expected answer, base, tuned}"""
    verdict: Verdict | None = None
    """for an original task, as in run.json; null for the new one"""


@dataclass(frozen=True)
class CheckRecord(Record):
    """check.json: written with --out, next to check.html and examples.jsonl."""

    outcome: str
    """"pass", "fail" or "undecided", over all original tasks"""
    max_drop: str
    """as given on the command line"""
    base: Mapping[str, str]
    """{folder, sha256 of the weights}"""
    tuned: Mapping[str, str]
    """likewise"""
    held_out: bool
    """whether only the held-out rows of a run were scored"""
    notes: list[str]
    """notes on the models and all tasks"""
    original: list[CheckedTaskRecord]
    """[{source, sha256, heads, score, change, labels, worse, better, notes, verdict}], one per original task"""
    new: CheckedTaskRecord | None
    """the same without a verdict"""


@dataclass(frozen=True)
class PartRecord:
    """layers, roles: the contribution of a part of the model to the drop."""

    name: str
    """layers: embeddings, block 0, …, top, head NAME; roles: attention, mlp, norms"""
    pattern: str
    """a pattern that matches its parameters, for --freeze.pattern"""
    moved: bool
    """whether the two models differ in it; if not, nothing was measured"""
    distance: float
    """‖θ − θ*‖ / ‖θ*‖ of the part"""
    put_back: Change
    """from the tuned model to the tuned model with the base's part"""
    put_back_rise: Estimate
    """{value, low, high} of the mean loss, in nats"""
    alone: Change
    """from the base to the base with the tuned model's part"""
    alone_rise: Estimate
    """likewise"""
    predicted: float
    """the rise that the Fisher information predicts for the tuned model's part in the base"""


@dataclass(frozen=True)
class RefitRecord:
    """refit: new heads fitted to the frozen features of both models."""

    outcome: str
    """"misaligned", "gone", "undecided" or "nothing" (no drop)"""
    kept: Estimate | None
    """{value, low, high}: the share of the drop that is not lost in the features, 1 - missing / drop"""
    reference: Change
    """from the base to the base with the refitted head"""
    back: Change
    """from the tuned model to the tuned model with the refitted head"""
    missing: Change
    """from the refitted base to the refitted tuned model"""
    fitted: Mapping[str, Any]
    """{base, tuned}: details of the fits"""


@dataclass(frozen=True)
class ProposalRecord:
    """proposal: the fewest layers, chosen greedily, that recover enough of the drop when put back."""

    enough: float
    """the share of the drop on the validation rows that is to be recovered"""
    steps: list[dict[str, Any]]
    """[{layer, back, loss}]: the layer put back, the share of the drop recovered so far, the loss"""
    all: bool
    """whether it needs every layer that moved"""
    pattern: str
    """a pattern that matches the layers, for --freeze.pattern"""
    put_back: Change
    """from the tuned model to the tuned model with these layers of the base, on the test rows"""


@dataclass(frozen=True)
class DiagnoseRecord(Record):
    """diagnose.json: its presence means that the diagnosis is finished."""

    base: Mapping[str, str]
    """{folder, sha256 of the weights}"""
    tuned: Mapping[str, str]
    """likewise"""
    heads: Mapping[str, str]
    """{base, tuned}: names"""
    data: Mapping[str, Any]
    """{source, splits: {train, validation, test: {rows, sha256}}}"""
    notes: list[str]
    """notes on the models, the data and the Fisher pass"""
    lost: bool
    """whether the whole interval of the drop is a loss"""
    change: Change
    """of the original score from base to tuned, as in run.json"""
    loss: Mapping[str, float]
    """{base, tuned}: mean loss on the test rows, in nats"""
    rise: Estimate
    """{value, low, high} of that loss"""
    predicted: float
    """the rise of the loss that the Fisher information predicts"""
    order: float | None
    """Spearman's ρ of predicted and measured rise over the layers that moved; null for fewer than three"""
    fisher: Mapping[str, Any]
    """{folder, estimator, examples, trace, trace_error}"""
    layers: list[PartRecord]
    """[{name, pattern, moved, distance, put_back, put_back_rise, alone, alone_rise, predicted}] from the bottom up"""
    roles: list[PartRecord]
    """the same for all attention, all MLPs and all norms of the blocks"""
    refit: RefitRecord | None
    """{outcome, kept, reference, back, missing, fitted}"""
    proposal: ProposalRecord | None
    """{enough, steps, all, pattern, put_back}; null without a drop, or without one on the validation rows"""
    rows: Mapping[str, int]
    """{test, validation}: numbers of rows that were read"""
    seconds: float
    """wall time"""
    seed: int
    """seed of the choice of rows and the draws"""


@dataclass(frozen=True)
class CandidateRecord:
    """candidates: merged models that were scored on the validation rows."""

    kind: str
    """alpha, layers, ties, dare or fisher"""
    settings: dict[str, Any]
    """the settings of its formula; for layers {alphas: {embeddings, layers/0, …, top}}"""
    original: float
    """the original score"""
    new: float | None
    """the new score; null, like gain, if the drop exceeds the budget"""
    drop: float
    """change of the original score from the base, + is a loss"""
    gain: float | None
    """change of the new score from the base, + is better"""
    within: bool
    """whether the drop is within the budget"""


@dataclass(frozen=True)
class RepairRecord(Record):
    """repair.json: its presence means that the repair is finished."""

    outcome: str
    """"pass", "fail", "undecided", or "nothing" if no candidate is better than the base"""
    max_drop: str
    """as given on the command line"""
    margin: float
    """the accepted drop in units of the score on the validation rows"""
    rows: Mapping[str, int]
    """{original, new}: numbers of validation rows on which candidates were scored"""
    base: Mapping[str, str]
    """{folder, sha256 of the weights}"""
    tuned: Mapping[str, str]
    """likewise"""
    heads: Mapping[str, Any]
    """{original, new, shared}"""
    fisher: Mapping[str, Any]
    """{base, tuned}: folders, or null"""
    data: Mapping[str, Any]
    """{original, new: {source, splits: {validation, test: {rows, sha256}}}}"""
    notes: list[str]
    """notes on the models and the data"""
    candidates: list[CandidateRecord]
    """[{kind, settings, original, new, drop, gain, within}]; the first is the base, the second the tuned model"""
    chosen: int | None
    """the index of the chosen candidate"""
    nearest: int | None
    """the index of the candidate that gains on the new task and exceeds the budget by least"""
    tuned_change: Mapping[str, Change]
    """{original, new}: from BASE to TUNED on the test rows"""
    original: Change | None
    """from BASE to the chosen candidate on the test rows; null, like the next three, if none was chosen"""
    new: Change | None
    """likewise"""
    given_up: Change | None
    """the change on the new task from TUNED to the chosen candidate, on the test rows"""
    verdict: Verdict | None
    """as in run.json"""
    seed: int
    """seed of the entries that DARE drops"""
    seconds: Mapping[str, float]
    """{alpha, layers, … (each kind of candidate), total}, wall time"""


@dataclass(frozen=True)
class MergeRecord(Record):
    """merge.json: written to the merged checkpoint's folder."""

    how: str
    """the formula"""
    settings: Mapping[str, Any]
    """its settings"""
    base: Mapping[str, str]
    """{folder, sha256 of the weights}"""
    tuned: list[dict[str, Any]]
    """[{folder, sha256, heads: {name in the tuned model: name in the merged model}}]"""
    heads: Mapping[str, Any]
    """{name: {kind, labels}}"""
    primary: str | None
    """the head that is the checkpoint's classifier"""
    notes: list[str]
    """notes on the models and their lengths"""
    greedy: dict[str, Any] | None
    """with --task, else absent: {source, metric, rows: {rows, sha256} of the validation split, scores of each TUNED
    alone, soup: its score, chosen: indices in tuned, the best first}"""

    def to_json(self) -> dict[str, Any]:
        fields = super().to_json()
        return {name: value for name, value in fields.items() if name != "greedy" or value is not None}


@dataclass(frozen=True)
class FisherRequestRecord:
    """request.json: the settings in which repeated calls of `fft fisher` on a folder must agree."""

    base_sha256: str
    """hash of the weights at which it is measured"""
    task: Mapping[str, Any]
    """{name, kind, labels}; in provenance.json also sigma for a regression"""
    data: Mapping[str, Any]
    """{source, train_rows, train, validation, test: {rows, sha256}}"""
    estimator: str
    """this and the next six are the settings of the pass, see `fft fisher --help`"""
    samples: int
    draws: int
    batch_size: int
    way: str
    chunk: int
    converged: float
    storage: str
    """the format of the stored numbers"""
    mesh: str
    """the devices over which batches are split"""
    seed: int
    """seed of the rows and the draws"""
    tasks: list[str]
    """all tasks in the sum; the last one is measured by this pass"""
    previous: Mapping[str, Any] | None
    """{gamma, sha256} of the artefact to which it is added"""


@dataclass(frozen=True)
class FisherRecord(Record):
    """provenance.json: written by a Fisher pass. The file also has sha256 (of the tensors), kind and its own sha256."""

    request: FisherRequestRecord
    """its fields, each a key of its own"""
    model: str
    """the checkpoint's folder"""
    examples: int
    """rows read"""
    trace: float
    """Σ of the diagonal"""
    trace_error: float | None
    """the 95 % half-width of the trace over batches as a share of the trace; null for a sum with a previous one"""

    def to_json(self) -> dict[str, Any]:
        fields = super().to_json()
        return fields.pop("request") | fields
