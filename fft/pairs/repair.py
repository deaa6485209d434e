"""Repair: what can be won back from a base and a tuned checkpoint without training.

    repair(Request("base/", "tuned/", Data("old.csv"), Data("new.csv"), Budget(0.01)), Path("repaired/"))

Merged models are tried on the VALIDATION rows of both tasks. Of those whose drop of the original score is within the
budget the one with the best new score is chosen, and confirmed once on the TEST rows.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fft import models, record, retention
from fft.contract.budget import Budget
from fft.errors import InputError
from fft.evaluate import Change, change_between
from fft.experiment import Data
from fft.folder import MODEL, FolderLock, refuse_taken
from fft.local import local
from fft.metrics import METRICS
from fft.pairs.candidates import (
    ALPHAS,
    Candidate,
    Tried,
    choose,
    dare,
    fisher,
    moved_depths,
    nearest_miss,
    search_layers,
    ties,
)
from fft.pairs.heldout import HeldOut, refuse_undefined
from fft.pairs.mergeable import Sides, load_sides
from fft.paths import Params
from fft.record import writing
from fft.schema import MOST_SEED, at_least, between
from fft.seeding import key_for

ALSO = ("layers", "ties", "dare")
NOTHING = "nothing"
FILES = ("front.svg", "front.png", "report.html")
"""what it writes before all is done; a repair that was killed is begun again over them"""
UNCONFIRMED = ".model.partial-repair"
"""where the chosen model is until the test rows have said what it is worth; a killed one is cleared away"""
EXIT_CODES = {**retention.EXIT_CODES, NOTHING: 1}


@dataclass(frozen=True)
class Request:
    """Which two checkpoints are merged, what the original may lose, and what is tried beside one α."""

    base: str
    tuned: str
    original: Data
    new: Data
    max_drop: Budget
    original_head: str | None = None
    new_head: str | None = None
    also: tuple[str, ...] = ALSO
    sweeps: int = 1
    fisher: Path | None = None
    new_fisher: Path | None = None
    max_length: int | None = None
    seed: int = 0

    def __post_init__(self):
        at_least("sweeps", self.sweeps, 1)
        between("seed", self.seed, 0, MOST_SEED)
        if self.new_fisher is not None and self.fisher is None:
            raise InputError("--new-fisher is weighed against the base's Fisher information: give --fisher too")


class Repaired(NamedTuple):
    """The folder and what its repair.json says."""

    directory: Path
    record: dict

    @property
    def exit_code(self) -> int:
        """0 the original task is kept, 1 it is not or nothing better than the base was found, 4 undecided."""
        return EXIT_CODES[self.record["outcome"]]


class Search:
    """Scores candidates on the validation rows and remembers them; the first is the base."""

    def __init__(self, sides: Sides, rows: HeldOut, watch: Callable[[Tried, int], None]):
        self.sides, self.rows, self.watch = sides, rows, watch
        self.tried: list[Tried] = []
        self.candidates: list[Candidate] = []
        self.seconds: dict[str, float] = {}
        self.depths = sides.tuned.model.depth + 2

    def score(self, candidate: Candidate) -> Tried:
        """The candidate's scores, beside those of the base."""
        with self._clock(candidate.kind):
            found = self.rows.scores(candidate.make())
        base = self.tried[0]._asdict() if self.tried else found
        change = {
            name: METRICS[data.task.metric].sign * (found[name] - base[name]) for name, data in self.rows.data.items()
        }
        drop = 0.0 - change["original"]
        self.tried.append(
            Tried(candidate.kind, candidate.settings, found["original"], found["new"], drop, change["new"])
        )
        self.candidates.append(candidate)
        self.watch(self.tried[-1], len(self.tried))
        return self.tried[-1]

    def score_line(self, alphas: Sequence[float]) -> None:
        """One α for all depths."""
        for alpha in alphas:
            self.score(self._blended("alpha", {"alpha": alpha}, np.full(self.depths, alpha)))

    def score_layers(self, margin: float, sweeps: int) -> None:
        """One α a depth, searched from the best single one."""
        at = choose(self.tried[: len(ALPHAS)], margin)
        start = np.full(self.depths, self.tried[at].settings["alpha"])
        blocks = self.depths - 2
        depths = moved_depths(self.sides.base, self.sides.tuned.params, blocks)
        names = ["embeddings", *(f"layers/{block}" for block in range(blocks)), "top"]

        def score(alphas: np.ndarray) -> Tried:
            named = {name: round(float(alpha), 2) for name, alpha in zip(names, alphas, strict=True)}
            return self.score(self._blended("layers", {"alphas": named}, alphas))

        search_layers(self.tried[at], start, depths, score, margin, sweeps)

    def _blended(self, kind: str, settings: dict, alphas: np.ndarray) -> Candidate:
        def make() -> Params:
            return self.rows.blend(self.sides.base, self.sides.tuned.params, np.asarray(alphas, np.float32))

        return Candidate(kind, settings, make)

    @contextmanager
    def _clock(self, kind: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[kind] = self.seconds.get(kind, 0.0) + time.monotonic() - start


def repair(
    request: Request,
    out: Path,
    say: Callable[[str], None] = lambda text: None,
    watch: Callable[[Tried, int], None] = lambda tried, count: None,
) -> Repaired:
    """Search, choose, confirm, and write OUT: model/, front.svg, front.png, report.html and, last, repair.json.

    Where nothing within the budget beats the base no model is written. `watch(tried, count)` is told after every
    candidate.
    Errors: InputError for checkpoints of other shapes or vocabularies, heads or data that do not fit, a Fisher of
    other weights, a budget that bites nothing, and a folder that holds something already; UndecidableError for
    validation rows on which a score is not defined.
    """
    out = Path(local(out, "--out"))
    refuse_taken(out, FILES, unless="repair.json")
    start = time.monotonic()
    sides = load_sides(
        *(request.base, request.tuned, request.original, request.new, request.original_head, request.new_head),
        *(request.max_length, request.fisher, request.new_fisher),
    )
    refuse_undefined(sides.data, "validation")
    search = Search(sides, HeldOut(sides.tuned.model, sides.data), watch)
    margin = _margin(request, search)
    with FolderLock(out):
        _search(request, search, margin, say)
        best = choose(search.tried, margin)
        chosen = best if search.tried[best].gain > retention.SAME else None
        say("scoring the test rows")
        changes = _confirmed(search, chosen, out / UNCONFIRMED)
        found = _record(request, search, margin, chosen, changes)
        found["seconds"] = {**search.seconds, "total": time.monotonic() - start}
        return Repaired(out, _written(record.plain(found), out))


def _margin(request: Request, search: Search) -> float:
    """The accepted drop in units of the original's score; scores the base, the first candidate."""
    search.score_line(ALPHAS[:1])
    metric = METRICS[search.sides.data["original"].task.metric]
    return request.max_drop.biting_margin(metric, search.tried[0].original)


def _search(request: Request, search: Search, margin: float, say: Callable[[str], None]) -> None:
    """Try everything beside the base."""
    base, tuned = search.sides.base, search.sides.tuned.params
    say(f"one α for all layers: {len(ALPHAS)} candidates")
    search.score_line(ALPHAS[1:])
    if "layers" in request.also:
        say("an α for every layer")
        search.score_layers(margin, request.sweeps)
    kinds = {"ties": lambda: ties(base, tuned), "dare": lambda: dare(base, tuned, key_for(request.seed, "repair"))}
    chosen = {kind: make for kind, make in kinds.items() if kind in request.also}
    if search.sides.fishers:
        chosen["fisher"] = lambda: fisher(base, tuned, *search.sides.fishers)
    for kind, make in chosen.items():
        say(f"trying {kind}")
        for candidate in make():
            search.score(candidate)


def _confirmed(search: Search, chosen: int | None, folder: Path) -> dict[str, dict[str, Change]]:
    """The changes on the test rows: of the tuned model, of the chosen one, and from the tuned to the chosen one.

    The chosen model is scored as it was written to `folder` and read back: the verdict is about what is on disk.
    """
    rows, sides = search.rows, search.sides
    before, tuned = (rows.logits(search.candidates[at].make(), "test") for at in (0, len(ALPHAS) - 1))

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
    request: Request, search: Search, margin: float, chosen: int | None, changes: dict[str, dict[str, Change]]
) -> dict:
    """What repair.json says, but for the seconds."""
    repaired = changes.get("repaired")
    verdict = None
    if repaired:
        original = repaired["original"]
        verdict = retention.verdict(original, request.max_drop.margin(original.before))
    candidates = [{**tried._asdict(), "within": tried.is_within(margin)} for tried in search.tried]
    return {
        "outcome": verdict.outcome if verdict else NOTHING,
        "max_drop": str(request.max_drop),
        "margin": margin,
        **search.sides.told,
        "candidates": candidates,
        "chosen": chosen,
        "nearest": nearest_miss(search.tried, margin),
        "tuned_change": {name: change._asdict() for name, change in changes["tuned"].items()},
        "original": repaired and repaired["original"]._asdict(),
        "new": repaired and repaired["new"]._asdict(),
        "given_up": repaired and changes["given_up"]["new"]._asdict(),
        "verdict": verdict and verdict._asdict(),
        "seed": request.seed,
        **record.environment(),
    }


def _written(found: dict, out: Path) -> dict:
    """The pictures, the page, the model under its name and, last, repair.json."""
    from fft.report import repaired

    repaired.write(found, out)
    if found["chosen"] is not None:
        with writing(out / MODEL):
            (out / UNCONFIRMED).rename(out / MODEL)
    record.write_json(out / "repair.json", found)
    return found
