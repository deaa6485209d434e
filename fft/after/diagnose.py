"""Diagnose forgetting: which layers caused it, as predicted and as measured, and whether features or head are to blame.

    diagnose(DiagnoseSettings("base/", "tuned/", Data("old.csv")), Path("diagnosed/")).record["layers"]

All figures are measured on the original task's TEST rows. The proposal is searched on its VALIDATION rows; heads are
fitted and the Fisher information is measured on its TRAINING rows.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fft.after.exchange import Move, Part, exchanged, layers_of, moves, pattern_of, put_back_greedily, roles_of
from fft.after.refit import classify_drop, is_lost, refitted
from fft.after.settings import DiagnoseSettings
from fft.after.subject import Information, Subject, information_of, load_subject
from fft.core.naming import UNEMBED, counted
from fft.core.seeding import key_for
from fft.disk.environment import environment
from fft.disk.files import write_json
from fft.disk.folder import FolderLock, refuse_taken
from fft.disk.local import local
from fft.evaluate.meter import Answers, Meter, rise
from fft.stats.records import DiagnoseRecord, PartRecord, ProposalRecord, RefitRecord
from fft.stats.retention import SAME

ENOUGH = 0.5  # share of the validation drop that a proposal must recover
SEARCHED = 512  # validation rows that a proposal is searched on, at most
FILES = ("layers.svg", "layers.png", "report.html")  # written before diagnose.json
ORDERED = 3  # least number of moved layers for a rank correlation of prediction and measurement


class Diagnosed(NamedTuple):
    """The folder and the content of its diagnose.json."""

    directory: Path
    record: dict


def diagnose(
    settings: DiagnoseSettings,
    out: Path,
    say: Callable[[str], None] = lambda text: None,
    watch: Callable[[int], None] = lambda count: None,
) -> Diagnosed:
    """Diagnose, and write OUT: layers.svg, layers.png, report.html and, last, diagnose.json.

    `watch(count)` is called with the number of models scored so far.

    Raises: InputError for checkpoints of different shapes or vocabularies, or with the same weights; for heads or data
    that do not fit; for Fisher information of another base or task; and for a folder that is not empty;
    UndecidableError for test rows on which the score is not defined.
    """
    out = Path(local(out, "--out"))
    refuse_taken(out, FILES, unless="diagnose.json")
    start = time.monotonic()
    subject = load_subject(settings)
    with FolderLock(out):
        information = information_of(subject, settings, say)
        most = {"test": settings.rows, "validation": SEARCHED}
        meter = Meter(subject.checkpoint.model, subject.data, information.task, most, settings.seed, watch)
        record = _measure(subject, information, meter, settings, say, start)
        return Diagnosed(out, _write(record.to_json(), out))


# ---------------------------------------------------------------- layers and roles


def _measure(
    subject: Subject,
    information: Information,
    meter: Meter,
    settings: DiagnoseSettings,
    say: Callable[[str], None],
    start: float,
) -> DiagnoseRecord:
    """Measure everything and return the content of diagnose.json; `start` is the time at which the command began."""
    base, tuned = meter.answers(subject.base), meter.answers(subject.tuned)
    change = meter.change(base, tuned)
    of_leaf = moves(information.diagonal, subject.base, subject.tuned)
    layers = layers_of(subject.base, subject.checkpoint.model.depth)
    rows = {}
    for name, parts in (("layers", layers), ("roles", roles_of(subject.base))):
        say(f"{name}: each of {len(parts)} put back into the tuned model, and alone in the base")
        rows[name] = [_part(part, subject, meter, (base, tuned), of_leaf) for part in parts]
    refit = _refit(subject, meter, (base, tuned), settings, say)
    proposal = None
    if is_lost(change):
        moved = [part for part, row in zip(layers, rows["layers"], strict=True) if row.moved]
        proposal = _proposal(subject, meter, moved, tuned, say)
    return DiagnoseRecord(
        environment=environment(),
        base=subject.record["base"],
        tuned=subject.record["tuned"],
        heads=subject.record["heads"],
        data=subject.record["data"],
        notes=subject.record["notes"],
        lost=is_lost(change),
        change=change,
        loss={"base": float(base.losses.mean()), "tuned": float(tuned.losses.mean())},
        rise=rise(base, tuned),
        predicted=Move.of(of_leaf.values()).predicted,
        order=_agreement(rows["layers"]),
        fisher=information.record,
        layers=rows["layers"],
        roles=rows["roles"],
        refit=refit,
        proposal=proposal,
        rows={role: len(labels) for role, labels in meter.labels.items()},
        seconds=time.monotonic() - start,
        seed=settings.seed,
    )


def _part(
    part: Part, subject: Subject, meter: Meter, ends: tuple[Answers, Answers], of_leaf: dict[str, Move]
) -> PartRecord:
    """Measure what putting the part back recovers, what its move alone loses, and the predicted loss."""
    base, tuned = ends
    move = Move.of(of_leaf[path] for path in part.paths)
    back, alone = tuned, base
    if move.moved:
        back = meter.answers(exchanged(subject.tuned, subject.base, [part]))
        alone = meter.answers(exchanged(subject.base, subject.tuned, [part]))
    return PartRecord(
        name=part.name,
        pattern=part.pattern,
        moved=move.moved,
        distance=move.distance,
        put_back=meter.change(tuned, back),
        put_back_rise=rise(tuned, back),
        alone=meter.change(base, alone),
        alone_rise=rise(base, alone),
        predicted=move.predicted,
    )


def _agreement(layers: Sequence[PartRecord]) -> float | None:
    """Return Spearman's ρ of the predicted and the measured rise over the layers that moved.

    None for fewer than ORDERED layers, for values that are not finite, and if one side is constant.
    """
    from scipy.stats import spearmanr

    pairs = [(row.predicted, row.alone_rise.value) for row in layers if row.moved]
    sides = list(zip(*pairs, strict=True))
    if len(pairs) < ORDERED or not np.isfinite(sides).all() or any(len(set(side)) == 1 for side in sides):
        return None
    predicted, measured = sides
    return float(spearmanr(predicted, measured).statistic)  # pyright: ignore[reportAttributeAccessIssue]  # no stubs


# ---------------------------------------------------------------- head or features, and the proposal


def _refit(
    subject: Subject,
    meter: Meter,
    ends: tuple[Answers, Answers],
    settings: DiagnoseSettings,
    say: Callable[[str], None],
) -> RefitRecord | None:
    """Refit a head to the features of each model, and judge whether the drop is due to the features or the head; None
    for the language head, which is a part of the model.
    """
    if UNEMBED in subject.data.task.heads:
        return None
    base, tuned = ends
    refits, fitted = [], []
    for name, params in (("base", subject.base), ("tuned", subject.tuned)):
        say(f"fitting a head to the frozen features of the {name} model")
        batches = subject.batches(settings.fit_rows, settings.seed)
        refit, fit = refitted(subject.checkpoint, params, subject.data.task, batches, key_for(settings.seed, "heads"))
        refits.append(meter.answers(refit))
        fitted.append(fit)
    missing = meter.change(*refits)
    outcome, share = classify_drop(meter.change(base, tuned), missing)
    return RefitRecord(
        outcome=outcome,
        kept=share,
        reference=meter.change(base, refits[0]),
        back=meter.change(tuned, refits[1]),
        missing=missing,
        fitted=dict(zip(("base", "tuned"), fitted, strict=True)),
    )


def _proposal(
    subject: Subject, meter: Meter, moved: Sequence[Part], tuned: Answers, say: Callable[[str], None]
) -> ProposalRecord | None:
    """Search greedily for few layers that recover ENOUGH of the validation drop; None without such a drop."""
    ends = [meter.signed(meter.answers(params, "validation")) for params in (subject.base, subject.tuned)]
    drop = ends[0] - ends[1]
    if not drop > SAME:
        subject.record["notes"].append("on the validation rows nothing is lost, so nothing could be searched on them")
        return None
    rows = counted(len(meter.labels["validation"]), "validation row")
    say(f"searching for layers that give {ENOUGH:.0%} of what was lost back, on {rows}")

    def score(parts: Sequence[Part]) -> tuple[float, float]:
        answers = meter.answers(exchanged(subject.tuned, subject.base, parts), "validation")
        return meter.signed(answers), float(answers.losses.mean())

    steps = put_back_greedily(moved, score, ends[1] + ENOUGH * drop - SAME)
    chosen = [part for part in moved if part in [step.part for step in steps]]
    shares = [(step.score - ends[1]) / drop for step in steps]
    return ProposalRecord(
        enough=ENOUGH,
        steps=[
            {"layer": step.part.name, "back": share, "loss": step.loss}
            for step, share in zip(steps, shares, strict=True)
        ],
        all=len(chosen) == len(moved) > 1,
        pattern=pattern_of(chosen),
        put_back=meter.change(tuned, meter.answers(exchanged(subject.tuned, subject.base, chosen))),
    )


def _write(record: dict, out: Path) -> dict:
    """Write the picture, the page and, last, diagnose.json; return the record."""
    from fft.report.diagnosed import page

    page.write(record, out)
    write_json(out / "diagnose.json", record)
    return record
