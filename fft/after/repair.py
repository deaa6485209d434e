"""Repair: what can be won back from a base and a tuned checkpoint without training.

    repair(RepairSettings("base/", "tuned/", Data("old.csv"), Data("new.csv")), Path("repaired/"))

Merged models are tried on the VALIDATION rows of both tasks. Of those whose drop of the original score is within the
budget the one with the best new score is chosen, and confirmed once on the TEST rows.
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
    Tried,
    Way,
    choose,
    dare,
    fisher,
    moved_depths,
    nearest_miss,
    search_layers,
    ties,
)
from fft.after.mergeable import Sides, load_sides
from fft.after.settings import RepairSettings
from fft.core.naming import counted
from fft.core.progress import doing
from fft.core.seeding import key_for
from fft.core.tree import Params
from fft.disk.environment import environment
from fft.disk.files import write_json, writing
from fft.disk.folder import MODEL, FolderLock, refuse_taken
from fft.disk.local import local
from fft.evaluate.heldout import HeldOut, refuse_undefined
from fft.merging.furthest import most_questions
from fft.stats import retention
from fft.stats.intervals import Change, change_between
from fft.stats.metrics import METRICS
from fft.stats.records import CandidateRecord, RepairRecord

BASE, TUNED = 0, 1  # their places among the candidates
NOTHING = "nothing"
FILES = ("front.svg", "front.png", "report.html")
"""what it writes before all is done; a repair that was killed is begun again over them"""
UNCONFIRMED = ".model.partial-repair"
"""where the chosen model is until the test rows have said what it is worth; a killed one is cleared away"""
EXIT_CODES = {**retention.EXIT_CODES, NOTHING: 1}


class Repaired(NamedTuple):
    """The folder and what its repair.json says."""

    directory: Path
    record: dict

    @property
    def exit_code(self) -> int:
        """0 the original task is kept, 1 it is not or nothing better than the base was found, 4 undecided."""
        return EXIT_CODES[self.record["outcome"]]


class Search:
    """Scores candidates on the validation rows and remembers them; the first is the base, the second the tuned model.

    `margin` is the accepted drop in units of the original's score. A candidate beyond it is not scored on the new task.
    """

    def __init__(
        self, settings: RepairSettings, sides: Sides, rows: HeldOut, watch: Callable[[Tried, int], None]
    ) -> None:
        self.sides, self.rows, self.watch = sides, rows, watch
        self.tried: list[Tried] = []
        self.candidates: list[Candidate] = []
        self.seconds: dict[str, float] = {}
        self.depths = sides.tuned.model.depth + 2
        metric = METRICS[rows.data["original"].task.metric]
        base = self.score(self.blended("alpha", {"alpha": 0.0}, np.zeros(self.depths)), math.inf)
        self.margin = settings.budget.biting_margin(metric, base.original)
        self.score(self.blended("alpha", {"alpha": 1.0}, np.ones(self.depths)), math.inf)

    def score(self, candidate: Candidate, margin: float | None = None) -> Tried:
        """The candidate's scores, beside those of the base; the new one where the drop is within the margin."""
        with self._clock(candidate.kind):
            params = candidate.make()
            found = self.rows.scores(params, names=["original"])
            base = self.tried[0]._asdict() if self.tried else found
            drop = 0.0 - self._gain("original", found, base)
            asked = drop <= (self.margin if margin is None else margin) + retention.SAME
            new = self.rows.scores(params, names=["new"]) if asked else {}
        gain = self._gain("new", new, base if self.tried else new) if asked else None
        self.tried.append(Tried(candidate.kind, candidate.settings, found["original"], new.get("new"), drop, gain))
        self.candidates.append(candidate)
        self.watch(self.tried[-1], len(self.tried))
        return self.tried[-1]

    def _gain(self, name: str, found: dict[str, Any], base: dict[str, Any]) -> float:
        return METRICS[self.rows.data[name].task.metric].sign * (found[name] - base[name])

    def follow(self, way: Way, end: float = math.inf) -> None:
        """Score candidates on a way, towards the furthest that is within the margin; as `Way.furthest`."""
        way.furthest(lambda candidate: self.score(candidate).loss(self.margin), end)

    def line(self) -> Way:
        """One α for all depths, between the base and the tuned model."""
        return Way(tuple(self.blended("alpha", {"alpha": a}, np.full(self.depths, a)) for a in STEPS[:-1]))

    def search_layers(self, sweeps: int) -> None:
        """One α a depth, searched from the best single one."""
        at = choose(self.tried, self.margin)
        start = np.full(self.depths, self.tried[at].settings["alpha"])
        blocks = self.depths - 2
        depths = moved_depths(self.sides.base, self.sides.tuned.params, blocks)
        names = ["embeddings", *(f"layers/{block}" for block in range(blocks)), "top"]

        def score(alphas: np.ndarray) -> Tried:
            named = {name: round(float(alpha), 4) for name, alpha in zip(names, alphas, strict=True)}
            return self.score(self.blended("layers", {"alphas": named}, alphas))

        search_layers(self.tried[at], start, depths, score, self.margin, sweeps)

    def blended(self, kind: str, settings: dict, alphas: np.ndarray) -> Candidate:
        """The candidate of one α a depth."""

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
    watch: Callable[[Tried, int], None] = lambda tried, count: None,
) -> Repaired:
    """Search, choose, confirm, and write OUT: model/, front.svg, front.png, report.html and, last, repair.json.

    Where nothing within the budget beats the base no model is written. `watch(tried, count)` is told after every
    candidate.
    Raises: InputError for checkpoints of other shapes or vocabularies, heads or data that do not fit, a Fisher of
    other weights, a budget that bites nothing, and a folder that holds something already; UndecidableError for
    validation rows on which a score is not defined.
    """
    out = Path(local(out, "--out"))
    refuse_taken(out, FILES, unless="repair.json")
    start = time.monotonic()
    with doing("reading both models and the data"):
        sides = load_sides(settings)
    refuse_undefined(sides.data, "validation")
    rows = HeldOut(sides.tuned.model, sides.data, most={"validation": settings.rows})
    say(f"scoring the base and the tuned model on {rows.told('validation')}")
    search = Search(settings, sides, rows, watch)
    with FolderLock(out):
        _search(settings, search, say)
        best = choose(search.tried, search.margin)
        chosen = best if (search.tried[best].gain or 0) > retention.SAME else None
        say(f"scoring the base, the tuned model and the choice on {rows.told('test')}")
        changes = _confirmed(search, chosen, out / UNCONFIRMED)
        seconds = {**search.seconds, "total": time.monotonic() - start}
        return Repaired(out, _written(_record(settings, search, chosen, changes, seconds).to_json(), out))


def _search(settings: RepairSettings, search: Search, say: Callable[[str], None]) -> None:
    """Try everything beside the base and the tuned model, if that lost too much."""
    base, tuned = search.sides.base, search.sides.tuned.params
    if search.tried[TUNED].is_within(search.margin):
        say("the tuned model is within the budget: there is nothing to win back")
        return
    kinds: dict[str, Callable[[], Iterator[Way]]] = {
        "ties": lambda: ties(base, tuned),
        "dare": lambda: dare(base, tuned, key_for(settings.seed, "repair")),
    }
    ways = {kind: list(make()) for kind, make in kinds.items() if kind in settings.also}
    if search.sides.fishers:
        ways["fisher"] = list(fisher(base, tuned, *search.sides.fishers))
    depths = moved_depths(base, tuned, search.depths - 2) if "layers" in settings.also else []
    _estimate(search, 1 + sum(map(len, ways.values())), len(depths) * settings.sweeps, say)
    say("one α for all layers")
    search.follow(search.line(), search.tried[TUNED].loss(search.margin))
    if depths:
        say("an α for every layer")
        search.search_layers(settings.sweeps)
    for kind, found in ways.items():
        say(f"trying {kind}")
        for way in found:
            search.follow(way)


def _estimate(search: Search, ways: int, depths: int, say: Callable[[str], None]) -> None:
    """Say how many candidates there are to try at most, and how long that will take by what the first two took."""
    most = ways * most_questions(len(STEPS) + 1) + depths * most_questions(len(LAYER_ALPHAS) + 1)
    each = search.seconds["alpha"] / len(search.tried)
    say(f"at most {counted(most, 'candidate')} to try, about {each:.1f} s each: {most * each:.0f} s in all")


def _confirmed(search: Search, chosen: int | None, folder: Path) -> dict[str, dict[str, Change]]:
    """The changes on the test rows: of the tuned model, of the chosen one, and from the tuned to the chosen one.

    The chosen model is scored as it was written to `folder` and read back: the verdict is about what is on disk.
    """
    rows, sides = search.rows, search.sides
    before, tuned = (rows.logits(search.candidates[at].make(), "test") for at in (BASE, TUNED))

    def changes(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, Change]:
        return {
            name: change_between(METRICS[data.task.metric], data.splits["test"].labels, first[name], second[name])
            for name, data in rows.data.items()
        }

    found = {"tuned": changes(before, tuned)}
    if chosen is None:
        return found
    models.save(sides.tuned._replace(params=search.candidates[chosen].make()), folder)
    after = rows.logits(models.load(folder).params, "test")
    return found | {"repaired": changes(before, after), "given_up": changes(tuned, after)}


def _record(
    settings: RepairSettings,
    search: Search,
    chosen: int | None,
    changes: dict[str, dict[str, Change]],
    seconds: dict[str, float],
) -> RepairRecord:
    """What repair.json says."""
    repaired = changes.get("repaired", {})
    verdict, told = None, search.sides.told
    if repaired:
        original = repaired["original"]
        verdict = retention.verdict(original, settings.budget.margin(original.before))
    return RepairRecord(
        environment=environment(),
        outcome=verdict.outcome if verdict else NOTHING,
        max_drop=str(settings.budget),
        margin=search.margin,
        rows=search.rows.counts("validation"),
        base=told["base"],
        tuned=told["tuned"],
        heads=told["heads"],
        fisher=told["fisher"],
        data=told["data"],
        notes=told["notes"],
        candidates=[CandidateRecord(*tried, within=tried.is_within(search.margin)) for tried in search.tried],
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


def _written(found: dict, out: Path) -> dict:
    """The pictures, the page, the model under its name and, last, repair.json."""
    from fft.report import repaired

    repaired.write(found, out)
    if found["chosen"] is not None:
        with writing(out / MODEL):
            (out / UNCONFIRMED).rename(out / MODEL)
    write_json(out / "repair.json", found)
    return found
