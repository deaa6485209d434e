"""Repair: recover what a tuned checkpoint has forgotten by merging it with its base, without training.

    repair(RepairSettings("base/", "tuned/", Data("old.csv"), Data("new.csv")), Path("repaired/"))

Merged models are scored on the VALIDATION rows of both tasks. Among those whose drop of the original score is within
the budget, the one with the best new score is chosen, and confirmed once on the TEST rows.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fft import models
from fft.after.candidates import (
    LAYER_ALPHAS,
    STEPS,
    Candidate,
    ScoredCandidate,
    Series,
    choose,
    dare,
    fisher,
    moved_depths,
    nearest_miss,
    search_layers,
    ties,
)
from fft.after.mergeable import Sides, load_sides
from fft.after.scaled import write_scaled
from fft.after.settings import RepairSettings
from fft.core.naming import counted
from fft.core.progress import doing
from fft.core.seeding import key_for
from fft.core.tree import Params
from fft.disk.environment import environment
from fft.disk.files import write_json, writing
from fft.disk.folder import ADAPTER, MODEL, FolderLock, refuse_taken
from fft.disk.local import local
from fft.evaluate.heldout import HeldOut, refuse_undefined
from fft.merging.furthest import most_questions
from fft.stats import retention
from fft.stats.budget import Budget
from fft.stats.intervals import Change, change_between
from fft.stats.metrics import METRICS
from fft.stats.records import CandidateRecord, RepairRecord

BASE, TUNED = 0, 1  # their indices among the candidates
NOTHING = "nothing"
FILES = ("front.svg", "front.png", "report.html", ADAPTER)
"""files written before repair.json; after a kill, a new repair overwrites them"""
UNCONFIRMED = ".model.partial-repair"
"""folder of the chosen model until it is confirmed on the test rows; after a kill it is deleted"""
EXIT_CODES = {**retention.EXIT_CODES, NOTHING: 1}


class Repaired(NamedTuple):
    """The folder and the content of its repair.json."""

    directory: Path
    record: dict

    @property
    def exit_code(self) -> int:
        """0: the original task is preserved; 1: it is not, or nothing beats the base; 4: undecided."""
        return EXIT_CODES[self.record["outcome"]]


class Search:
    """Scores candidates on the validation rows and records them; the first is the base, the second the tuned model.

    `margin` is the accepted drop in units of the original's score. A candidate beyond it is not scored on the new task.
    """

    def __init__(
        self, settings: RepairSettings, sides: Sides, rows: HeldOut, watch: Callable[[ScoredCandidate, int], None]
    ) -> None:
        self.sides, self.rows, self.watch = sides, rows, watch
        self.tried: list[ScoredCandidate] = []
        self.candidates: list[Candidate] = []
        self.seconds: dict[str, float] = {}
        self.depths = sides.tuned.model.depth + 2
        metric = METRICS[rows.data["original"].task.metric]
        base = self.score(self.blended("alpha", {"alpha": 0.0}, np.zeros(self.depths)), math.inf)
        self.margin = Budget.parse(settings.max_drop).biting_margin(metric, base.original)
        self.score(self.blended("alpha", {"alpha": 1.0}, np.ones(self.depths)), math.inf)

    def score(self, candidate: Candidate, margin: float | None = None) -> ScoredCandidate:
        """Score and record a candidate; on the new task only if its drop is within `margin` (default: self.margin)."""
        with self._clock(candidate.kind):
            params = candidate.make()
            original = self.rows.scores(params, names=["original"])
            base = self.tried[0]._asdict() if self.tried else original
            drop = 0.0 - self._gain("original", original, base)
            within = drop <= (self.margin if margin is None else margin) + retention.SAME
            new = self.rows.scores(params, names=["new"]) if within else {}
        gain = self._gain("new", new, base if self.tried else new) if within else None
        self.tried.append(
            ScoredCandidate(candidate.kind, candidate.settings, original["original"], new.get("new"), drop, gain)
        )
        self.candidates.append(candidate)
        self.watch(self.tried[-1], len(self.tried))
        return self.tried[-1]

    def _gain(self, name: str, scores: dict[str, Any], base: dict[str, Any]) -> float:
        return METRICS[self.rows.data[name].task.metric].sign * (scores[name] - base[name])

    def search_series(self, series: Series, end: float = math.inf) -> None:
        """Score candidates of a series to find the furthest within the margin; see `Series.search_furthest`."""
        series.search_furthest(lambda candidate: self.score(candidate).loss(self.margin), end)

    def single_alphas(self) -> Series:
        """Return the series of one α for all depths, between the base and the tuned model."""
        return Series(tuple(self.blended("alpha", {"alpha": a}, np.full(self.depths, a)) for a in STEPS[:-1]))

    def search_layers(self, sweeps: int) -> None:
        """Search one α for each depth, from the best candidate so far."""
        at = choose(self.tried, self.margin)
        start = np.full(self.depths, self.tried[at].settings["alpha"])
        blocks = self.depths - 2
        depths = moved_depths(self.sides.base, self.sides.tuned.params, blocks)
        names = ["embeddings", *(f"layers/{block}" for block in range(blocks)), "top"]

        def score(alphas: np.ndarray) -> ScoredCandidate:
            named = {name: round(float(alpha), 4) for name, alpha in zip(names, alphas, strict=True)}
            return self.score(self.blended("layers", {"alphas": named}, alphas))

        search_layers(self.tried[at], start, depths, score, self.margin, sweeps)

    def blended(self, kind: str, settings: dict, alphas: np.ndarray) -> Candidate:
        """Return the candidate with `alphas`, one α for each depth."""

        def make() -> Params:
            return self.rows.blend(self.sides.base, self.sides.tuned.params, np.asarray(alphas, np.float32))

        return Candidate(kind, settings, make)

    @contextmanager
    def _clock(self, kind: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[kind] = self.seconds.get(kind, 0.0) + time.monotonic() - start


def repair(
    settings: RepairSettings,
    out: Path,
    say: Callable[[str], None] = lambda text: None,
    watch: Callable[[ScoredCandidate, int], None] = lambda candidate, count: None,
) -> Repaired:
    """Search, choose, confirm, and write OUT: model/, front.svg, front.png, report.html and, last, repair.json.

    Of a LoRA run of a language task adapter/ has the same model as a LoRA, if it is one. If nothing within the budget
    beats the base, no model is written. `watch(candidate, count)` is called after every candidate with the number
    scored so far.

    Raises: InputError for checkpoints of different shapes or vocabularies, heads or data that do not fit, Fisher
    information of other weights, a budget that no drop could exceed, and a folder that is not empty; UndecidableError
    for validation rows on which a score is not defined.
    """
    out = Path(local(out, "--out"))
    refuse_taken(out, FILES, unless="repair.json")
    start = time.monotonic()
    with doing("reading both models and the data"):
        sides = load_sides(settings)
    refuse_undefined(sides.data, "validation")
    rows = HeldOut(sides.tuned.model, sides.data, most={"validation": settings.rows})
    say(f"scoring the base and the tuned model on {rows.describe('validation')}")
    search = Search(settings, sides, rows, watch)
    with FolderLock(out):
        _search(settings, search, say)
        best = choose(search.tried, search.margin)
        chosen = best if (search.tried[best].gain or 0) > retention.SAME else None
        say(f"scoring the base, the tuned model and the choice on {rows.describe('test')}")
        changes = _confirm(search, chosen, out / UNCONFIRMED)
        seconds = {**search.seconds, "total": time.monotonic() - start}
        if chosen is not None and write_scaled(settings.tuned, search.tried[chosen].settings, out / ADAPTER):
            say(f"wrote {out / ADAPTER}, the repaired model as a LoRA of the base")
        return Repaired(out, _write(_record(settings, search, chosen, changes, seconds).to_json(), out))


def _search(settings: RepairSettings, search: Search, say: Callable[[str], None]) -> None:
    """Try merged models, unless the tuned model is already within the budget."""
    base, tuned = search.sides.base, search.sides.tuned.params
    if search.tried[TUNED].is_within(search.margin):
        say("the tuned model is within the budget: there is nothing to win back")
        return
    kinds: dict[str, Callable[[], Iterator[Series]]] = {
        "ties": lambda: ties(base, tuned),
        "dare": lambda: dare(base, tuned, key_for(settings.seed, "repair")),
    }
    series_of = {kind: list(make()) for kind, make in kinds.items() if kind in settings.also}
    if search.sides.fishers:
        series_of["fisher"] = list(fisher(base, tuned, *search.sides.fishers))
    depths = moved_depths(base, tuned, search.depths - 2) if "layers" in settings.also else []
    _estimate(search, 1 + sum(map(len, series_of.values())), len(depths) * settings.sweeps, say)
    say("one α for all layers")
    search.search_series(search.single_alphas(), search.tried[TUNED].loss(search.margin))
    if depths:
        say("an α for every layer")
        search.search_layers(settings.sweeps)
    for kind, several in series_of.items():
        say(f"trying {kind}")
        for series in several:
            search.search_series(series)


def _estimate(search: Search, series: int, depths: int, say: Callable[[str], None]) -> None:
    """Report the most candidates that can be tried, and the time for them, estimated from the first two."""
    most = series * most_questions(len(STEPS) + 1) + depths * most_questions(len(LAYER_ALPHAS) + 1)
    seconds = search.seconds["alpha"] / len(search.tried)
    say(f"at most {counted(most, 'candidate')} to try, about {seconds:.1f} s each: {most * seconds:.0f} s in all")


def _confirm(search: Search, chosen: int | None, folder: Path) -> dict[str, dict[str, Change]]:
    """Return the changes on the test rows: "tuned" and "repaired" from the base, "given_up" from tuned to repaired.

    The chosen model is written to `folder` and loaded again before it is scored, so that the verdict is on the saved
    weights.
    """
    rows, sides = search.rows, search.sides
    before, tuned = (rows.logits(search.candidates[at].make(), "test") for at in (BASE, TUNED))

    def changes(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, Change]:
        return {
            name: change_between(METRICS[data.task.metric], data.splits["test"].labels, first[name], second[name])
            for name, data in rows.data.items()
        }

    tuned_changes = {"tuned": changes(before, tuned)}
    if chosen is None:
        return tuned_changes
    models.save(sides.tuned._replace(params=search.candidates[chosen].make()), folder)
    after = rows.logits(models.load(folder, sides.tuned.language).params, "test")
    return tuned_changes | {"repaired": changes(before, after), "given_up": changes(tuned, after)}


def _record(
    settings: RepairSettings,
    search: Search,
    chosen: int | None,
    changes: dict[str, dict[str, Change]],
    seconds: dict[str, float],
) -> RepairRecord:
    """Return the content of repair.json."""
    repaired = changes.get("repaired", {})
    verdict, inputs = None, search.sides.record
    if repaired:
        original = repaired["original"]
        verdict = retention.verdict(original, Budget.parse(settings.max_drop).margin(original.before))
    return RepairRecord(
        environment=environment(),
        outcome=verdict.outcome if verdict else NOTHING,
        max_drop=str(Budget.parse(settings.max_drop)),
        margin=search.margin,
        rows=search.rows.counts("validation"),
        base=inputs["base"],
        tuned=inputs["tuned"],
        heads=inputs["heads"],
        fisher=inputs["fisher"],
        data=inputs["data"],
        notes=inputs["notes"],
        candidates=[
            CandidateRecord(**tried._asdict(), within=tried.is_within(search.margin)) for tried in search.tried
        ],
        chosen=chosen,
        nearest=nearest_miss(search.tried, search.margin),
        tuned_change=changes["tuned"],
        original=repaired.get("original"),
        new=repaired.get("new"),
        given_up=changes["given_up"]["new"] if repaired else None,
        verdict=verdict,
        seed=settings.seed,
        seconds=seconds,
    )


def _write(record: dict, out: Path) -> dict:
    """Write the pictures, the page, the model at its final place and, last, repair.json; return the record."""
    from fft.report import repaired

    repaired.write(record, out)
    if record["chosen"] is not None:
        with writing(out / MODEL):
            (out / UNCONFIRMED).rename(out / MODEL)
    write_json(out / "repair.json", record)
    return record
