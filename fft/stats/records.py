"""What fft writes about what it did: one dataclass a file, whose fields are the keys, described in docs/records.md.

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
from dataclasses import dataclass
from typing import Any

from fft.core.naming import ORIGINAL
from fft.disk.environment import Environment
from fft.disk.files import plain
from fft.stats.damage import LabelChange
from fft.stats.intervals import Change, Estimate, Interval
from fft.stats.retention import Verdict


@dataclass(frozen=True)
class Record:
    """What every record holds beside its own fields."""

    environment: Environment
    """git, versions and device, each a key of its own: {commit, dirty} of the fft that ran (null outside a checkout),
    {python, package: version}, {platform, kind, count, threads}"""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON holds it."""
        found = {name: plain(value, name) for name, value in vars(self).items() if name != "environment"}
        return found | plain(self.environment)


@dataclass(frozen=True)
class DataRecord:
    """data: a task's data as the run read them; texts without labels have no head."""

    source: str
    """as it was given"""
    splits: Mapping[str, Any]
    """{train, validation, test: {rows, sha256}}, as far as the command reads them"""
    warnings: tuple[str, ...] = ()
    """what was dropped, cut or odd"""
    head: str | None = None
    """the task's head in the checkpoint"""


@dataclass(frozen=True)
class ContractRecord:
    """contract: what --max-drop came to."""

    max_drop: str | list[str] | None
    """as it was given: one for all original tasks, or one each"""
    margin: float
    """the accepted drop of the first original task, in units of its score"""
    margins: Mapping[str, float]
    """the same of each original task"""
    met: bool
    """whether a trained point keeps the contract; otherwise the base is kept"""
    strength: float
    """the multiplier m at the end"""
    kept: Any
    """the point that is kept: {step, alpha, original, new, drop, drops, within}, scores on validation rows"""
    tried: list[Any]
    """all points that were scored; new is null where a point is not within the margins"""


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
    """of the base's weights"""
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
    """the step that became model/: best_step, or steps with --keep latest, or the contract's choice"""
    contract: ContractRecord | None
    """null without --max-drop"""
    stopped: str
    """"steps" (all of them) or "patience\""""
    skipped_steps: int
    """steps that were not finite and changed nothing"""
    history: list[dict[str, Any]]
    """[{step, new, original, original_2, …, combined, loss, seconds}] on the probe; the first entry is the base, whose
    new is null where the head is fresh"""
    crossover: int | None
    """the first scored step at which an original drop on the probe exceeds its tolerance"""
    changes: Mapping[str, Change]
    """new, original, original_2, …, each a key of its own: {metric, before, after, change, low, high, n, mcnemar_p,
    changed, undefined} on the test split; original is null without an original task. Of a fresh head only after, n and
    metric: there was nothing before"""
    scores: Mapping[str, Interval]
    """{new, original, …: {value, low, high, n}}, the score at the end with an interval of its own"""
    verdict: Verdict | None
    """the first of the verdicts whose outcome is that of all together; null without an original task"""
    verdicts: Mapping[str, Verdict]
    """{original, original_2, …: {outcome, tolerance, drop, drop_low, drop_high, needed, reason}}"""
    seconds: Mapping[str, float]
    """{prepare, train, scoring, saving, total}, wall time"""

    def to_json(self) -> dict[str, Any]:
        found = super().to_json()
        changes = {ORIGINAL: None} | found.pop("changes")
        return found | changes


@dataclass(frozen=True)
class SequenceTaskRecord:
    """tasks: each in the order of learning."""

    name: str
    """task_1, task_2, …"""
    source: str
    """its data, as given"""
    head: str
    """its head in the checkpoint"""
    metric: str
    """what it is scored by"""
    n: int
    """test rows"""
    sha256: str
    """of the test rows"""


@dataclass(frozen=True)
class StageRecord:
    """stages: each in short; all of it is in the run.json of its folder."""

    folder: str
    """stage-1, stage-2, …"""
    seconds: float
    """wall time"""
    lost: Mapping[str, float]
    """the drop of every earlier task that failed"""
    name: str
    """the method of the stage"""
    kept_step: int
    """as in run.json, and so are the next four"""
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
    """"pass", "fail" or "undecided": that of the worst stage"""
    plan: dict[str, Any]
    """what was asked for, as in plan.json"""
    tasks: list[SequenceTaskRecord]
    """[{name, source, head, metric, n, sha256}] in the order of learning"""
    rows: list[str]
    """what the rows of the matrix are: base, after task_1, …"""
    matrix: Any
    """R[i][j]: the score on task j after task i, row 0 the base; null where a model has no head for the task"""
    average_accuracy: Estimate | None
    """{value, low, high}; the measures are explained in docs/sequence.md"""
    backward_transfer: Estimate | None
    """likewise"""
    forward_transfer: Estimate | None
    """likewise; null where every task has a head of its own"""
    forgetting: Estimate | None
    """likewise"""
    stages: list[StageRecord]
    """[{folder, seconds, lost, name, kept_step, verdict, verdicts, contract, notes}]"""
    notes: list[str]
    """what is worth knowing of the base and the data"""
    seconds: float
    """wall time of all stages"""


@dataclass(frozen=True)
class ExampleRecord:
    """worse, better: the examples that the two models answer differently."""

    row: int
    """its number in the source, the first is 1"""
    text: str
    pair: str | None
    """the second text of a pair"""
    label: Any
    """the right answer"""
    base: Any
    """the base's answer"""
    tuned: Any
    """the tuned model's answer"""


@dataclass(frozen=True)
class CheckedTaskRecord:
    """original, new: the tasks that both models were scored on."""

    source: str
    """as it was given"""
    sha256: str
    """of the rows"""
    heads: Mapping[str, str | None]
    """{base, tuned}: names; base is null where it has no head for the task"""
    score: Mapping[str, Any]
    """{metric, value, low, high, n}: the tuned model's, with an interval of its own"""
    change: Change | None
    """from base to tuned, as in run.json; null where the base has no score"""
    labels: list[LabelChange]
    """[{label, n, before, after, change, low, high, lost, gained}], the greatest loss first; empty for regression"""
    worse: list[ExampleRecord]
    """[{row, text, pair, label, base, tuned}]: newly wrong; of a regression the 100 that moved furthest away"""
    better: list[ExampleRecord]
    """the same of those newly right, or moved nearest"""
    notes: list[str]
    """rows that training has seen, dropped rows, models that answer alike"""
    verdict: Verdict | None = None
    """of an original task, as in run.json; null of the new one"""


@dataclass(frozen=True)
class CheckRecord(Record):
    """check.json: with --out, beside check.html and examples.jsonl."""

    outcome: str
    """"pass", "fail" or "undecided", over all original tasks"""
    max_drop: str
    """as it was given"""
    base: Mapping[str, str]
    """{folder, sha256 of the weights}"""
    tuned: Mapping[str, str]
    """likewise"""
    held_out: bool
    """whether only the rows were scored that a run holds out"""
    notes: list[str]
    """of the models, and of all tasks"""
    original: list[CheckedTaskRecord]
    """[{source, sha256, heads, score, change, labels, worse, better, notes, verdict}], one an original task"""
    new: CheckedTaskRecord | None
    """the same without a verdict"""


@dataclass(frozen=True)
class PartRecord:
    """layers, roles: what a part of the model has to do with the drop."""

    name: str
    """embeddings, block 0, …, top, head NAME; or of the roles attention, mlp, norms"""
    pattern: str
    """its parameters' paths, as a pattern for --freeze.pattern"""
    moved: bool
    """whether the two models differ in it; if not, nothing is measured"""
    distance: float
    """‖θ − θ*‖ / ‖θ*‖ of the part"""
    put_back: Change
    """from the tuned model to the one with the base's part"""
    put_back_rise: Estimate
    """{value, low, high} of the mean loss, in nats"""
    alone: Change
    """from the base to the one with the tuned model's part"""
    alone_rise: Estimate
    """likewise"""
    predicted: float
    """the rise that the Fisher information predicts for the part alone"""


@dataclass(frozen=True)
class RefitRecord:
    """refit: heads fitted anew to the frozen features of both models."""

    outcome: str
    """"misaligned", "gone", "undecided" or "nothing" (no drop)"""
    kept: Estimate | None
    """{value, low, high}: the share of the drop that is not missing from the features"""
    reference: Change
    """from the base to the base with the refitted head"""
    back: Change
    """from the tuned model to the tuned model with the refitted head"""
    missing: Change
    """from the refitted base to the refitted tuned model"""
    fitted: Mapping[str, Any]
    """{base, tuned}: how the fits went"""


@dataclass(frozen=True)
class ProposalRecord:
    """proposal: the fewest layers, found greedily, that give enough of the drop back."""

    enough: float
    """the share of the drop on the validation rows that was looked for"""
    steps: list[dict[str, Any]]
    """[{layer, back, loss}]: the layer put back, the share that is back with it, the loss"""
    all: bool
    """whether it takes every layer that moved"""
    pattern: str
    """the layers, as a pattern for --freeze.pattern"""
    put_back: Change
    """from the tuned model to the one with these layers of the base, on the test rows"""


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
    """of the models, the data and the Fisher pass"""
    lost: bool
    """whether the interval of the drop lies wholly on the side of a loss"""
    change: Change
    """of the original score from base to tuned, as in run.json"""
    loss: Mapping[str, float]
    """{base, tuned}: mean loss of the test rows in nats"""
    rise: Estimate
    """{value, low, high} of that loss"""
    predicted: float
    """the rise that the Fisher information predicts"""
    order: float | None
    """Spearman's ρ of predicted and measured rise over the layers that moved; null where they are fewer than three"""
    fisher: Mapping[str, Any]
    """{folder, estimator, examples, trace, trace_error}"""
    layers: list[PartRecord]
    """[{name, pattern, moved, distance, put_back, put_back_rise, alone, alone_rise, predicted}] from the bottom up"""
    roles: list[PartRecord]
    """the same for all attention, all MLPs, all norms of the blocks"""
    refit: RefitRecord
    """{outcome, kept, reference, back, missing, fitted}"""
    proposal: ProposalRecord | None
    """{enough, steps, all, pattern, put_back}; null where nothing was lost, or no validation row shows it"""
    rows: Mapping[str, int]
    """{test, validation}: how many were read"""
    seconds: float
    """wall time"""
    seed: int
    """of the choice of rows and the draws"""


@dataclass(frozen=True)
class CandidateRecord:
    """candidates: merged models that were scored on the validation rows."""

    kind: str
    """alpha, layers, ties, dare or fisher"""
    settings: dict[str, Any]
    """what makes it; of an α by layer {alphas: {embeddings, layers/0, …, top}}"""
    original: float
    """the original score"""
    new: float | None
    """the new score; null where the drop is beyond the budget, and so is gain"""
    drop: float
    """of the original score against the base, + is a loss"""
    gain: float | None
    """of the new score against the base, + is better"""
    within: bool
    """the budget"""


@dataclass(frozen=True)
class RepairRecord(Record):
    """repair.json: its presence means that the repair is finished."""

    outcome: str
    """"pass", "fail", "undecided", or "nothing": nothing better than the base was found"""
    max_drop: str
    """as it was given"""
    margin: float
    """what it comes to on the validation rows"""
    rows: Mapping[str, int]
    """{original, new}: validation rows that candidates were scored on"""
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
    """of the models and the data"""
    candidates: list[CandidateRecord]
    """[{kind, settings, original, new, drop, gain, within}]; the first is the base, the second the tuned model"""
    chosen: int | None
    """the place of the chosen one among them"""
    nearest: int | None
    """the place of the one that gains and misses the budget by least"""
    tuned_change: Mapping[str, Change]
    """{original, new}: from BASE to TUNED on the test rows"""
    original: Change | None
    """from BASE to the chosen one on the test rows; null where none was chosen, and so are the next three"""
    new: Change | None
    """likewise"""
    given_up: Change | None
    """the new task from TUNED to the chosen one on the test rows"""
    verdict: Verdict | None
    """as in run.json"""
    seed: int
    """of what DARE drops"""
    seconds: Mapping[str, float]
    """{alpha, layers, …: of each kind of candidate, total}, wall time"""


@dataclass(frozen=True)
class MergeRecord(Record):
    """merge.json: in the merged checkpoint's folder."""

    how: str
    """the formula"""
    settings: Mapping[str, Any]
    """what it read"""
    base: Mapping[str, str]
    """{folder, sha256 of the weights}"""
    tuned: list[dict[str, Any]]
    """[{folder, sha256, heads: {its own name: the name here}}]"""
    heads: Mapping[str, Any]
    """{name: {kind, labels}}"""
    primary: str | None
    """the classifier"""
    notes: list[str]
    """of the models and their length"""
    greedy: dict[str, Any] | None
    """with --task: {source, metric, rows: {rows, sha256} of the validation split, scores of each TUNED alone, soup: its
    score, chosen: places in tuned, the best first}; absent without"""

    def to_json(self) -> dict[str, Any]:
        found = super().to_json()
        return {name: value for name, value in found.items() if name != "greedy" or value is not None}


@dataclass(frozen=True)
class FisherRequestRecord:
    """request.json: what two calls of `fft fisher` on one folder must agree in."""

    base_sha256: str
    """of the weights it is measured at"""
    task: Mapping[str, Any]
    """{name, kind, labels}; in provenance.json also sigma, of a regression"""
    data: Mapping[str, Any]
    """{source, train_rows, train, validation, test: {rows, sha256}}"""
    estimator: str
    """this and the next five are the settings of the pass, see `fft fisher --help`"""
    samples: int
    draws: int
    batch_size: int
    way: str
    chunk: int
    converged: float
    storage: str
    """how the numbers are stored"""
    mesh: str
    """over which devices the batches are split"""
    seed: int
    """of rows and draws"""
    tasks: list[str]
    """all tasks that are in it, the last one measured here"""
    previous: Mapping[str, Any] | None
    """{gamma, sha256} of the artefact that it is added to"""


@dataclass(frozen=True)
class FisherRecord(Record):
    """provenance.json: of a Fisher pass. The file also has sha256 (of the tensors), kind, and a sha256 of its own."""

    request: FisherRequestRecord
    """its fields, each a key of its own"""
    model: str
    """the checkpoint's folder"""
    examples: int
    """rows read"""
    trace: float
    """Σ of the diagonal"""
    trace_error: float | None
    """the 95 % half-width of the trace over batches as a share of it; null for a sum with a previous one"""

    def to_json(self) -> dict[str, Any]:
        found = super().to_json()
        return found.pop("request") | found
