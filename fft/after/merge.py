"""`fft merge`: a base and models tuned from it become one model, without training."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from annotated_types import Interval

from fft import models
from fft.after.pair import Side, length_of_sides, refuse_other_shape, refuse_other_vocabulary
from fft.after.settings import MergeSettings
from fft.core.bounds import check_value
from fft.core.errors import InputError
from fft.core.tree import Params, flatten, overlay
from fft.data import prepare_held_out
from fft.disk.environment import environment
from fft.disk.folder import refuse_taken
from fft.disk.local import local
from fft.evaluate.heldout import HeldOut, refuse_undefined
from fft.experiment import LEAST_LENGTH, Data
from fft.fisher.information import load_fisher
from fft.fisher.storage import unpack
from fft.merging.formulas import greedy_soup
from fft.merging.recipes import WAYS, Models, check, merged
from fft.models import Checkpoint, Head
from fft.models.files.heads import alike
from fft.models.files.hf import refuse_not_finite
from fft.models.heads import chosen_head
from fft.models.identity import base_sha256
from fft.run.restored import Length, load_checkpoint
from fft.stats.metrics import METRICS
from fft.stats.records import MergeRecord

RECORD = "merge.json"


class Named(NamedTuple):
    """The heads of several models under one naming."""

    heads: dict[str, Head]
    names: list[dict[str, str]]
    """of each tuned model's heads: {its own name: the name here}"""


def merge(settings: MergeSettings, out: Path) -> dict[str, Any]:
    """Merge, and write the checkpoint OUT, whole or not at all, with merge.json in it; returns what that says.

    Raises: InputError for models of other families, shapes or vocabularies, or trained at different lengths, settings
    that do not fit the way, a Fisher of other weights, a head that is not there, and a folder that holds something
    already.
    """
    check(settings.how, len(settings.tuned), settings.formula)
    out = Path(local(out, "--out"))
    refuse_taken(out)
    sides = base, *tuned = [Side(name, load_checkpoint(name)) for name in (settings.base, *settings.tuned)]
    for side in tuned:
        refuse_other_shape(base, side, "merged")
        refuse_other_vocabulary(base, side, "merged")
    length = _length(settings.max_length, sides)
    named = _named(base, tuned, settings.heads == "apart")
    trees = [renamed(side.checkpoint.params, names) for side, names in zip(tuned, named.names, strict=True)]
    # A head that a tuned model lacks has not moved there; a soup and Fisher merging ask only those that have it.
    moved = [overlay(base.checkpoint.params, tree) for tree in trees] if "scale" in WAYS[settings.how].reads else trees
    fishers = [_fisher(*each) for each in zip(settings.formula.fisher, tuned, named.names, strict=False)]
    first = tuned[0].checkpoint
    primaries = [
        side.checkpoint.primary and names[side.checkpoint.primary]
        for side, names in zip(tuned, named.names, strict=True)
    ]
    primary = next(filter(None, primaries), None)
    named_first = first._replace(
        heads=named.heads,
        primary=primary,
        raw_config={**first.raw_config, "dtype": _dtype(tuned)},
        max_length=length.tokens if length.known else None,
    )
    primary = chosen_head(named_first, settings.head, "the merged model", "") if settings.head else named_first.primary
    ingredients = None
    if settings.task.source:
        ingredients = _ingredients(settings.task, named_first, tuned, trees, primary)
        moved = [moved[at] for at in ingredients["chosen"]]
    blended = Models(base.checkpoint.params, moved, first.model.depth, fishers)
    params = merged(settings.how, blended, settings.formula)
    refuse_not_finite(flatten(params), f"--how {settings.how} with these settings")
    heads = {name: named.heads[name] for name in params.get("heads", {})}
    found = _told(settings, base, tuned, named, heads, primary, ingredients, length).to_json()
    models.save(named_first._replace(params=params, heads=heads), out, primary, beside={RECORD: found})
    return found


def _length(asked: int | None, sides: Sequence[Side]) -> Length:
    """The length of the merged model; what is asked for must be one that it takes, also where no data are read."""
    if asked is not None:
        most = sides[0].checkpoint.model.config.max_positions
        check_value("max-length", asked, Annotated[int, Interval(ge=LEAST_LENGTH, le=most)])
    return length_of_sides(asked, sides)


def _ingredients(
    data: Data, named: Checkpoint, tuned: Sequence[Side], trees: Sequence[Params], head: str | None
) -> dict[str, Any]:
    """Which of the tuned models go into a greedy soup by their scores on the validation rows of `data`, and the scores:
    {"source", "metric", "scores": of each alone, "soup": of the soup, "chosen": places, the best first}.

    Raises: InputError for a tuned model without the head, and for data that do not fit it; UndecidableError for
    validation rows on which the score is not defined.
    """
    for side, tree in zip(tuned, trees, strict=True):
        if head not in tree.get("heads", {}):
            raise InputError(
                f"{side.name} has no head {head}, with which --task would choose; name another with --head"
            )
    assert head is not None  # the tuned models have it
    found = prepare_held_out(data, named, head, named.heads[head], named.max_length)
    refuse_undefined({"--task": found}, "validation")
    rows, metric = HeldOut(named.model, {"task": found}), METRICS[found.task.metric]

    def score(params: Params) -> float:
        return metric.sign * rows.scores(params)["task"]

    soup, chosen = greedy_soup(trees, score)
    scores = [metric.sign * score(tree) for tree in trees]
    told = {"source": data.source, "metric": found.task.metric, "rows": found.identity["validation"]}
    return {**told, "scores": scores, "soup": metric.sign * score(soup), "chosen": list(chosen)}


def renamed(tree: Params, names: dict[str, str]) -> Params:
    """A tree with its heads under the names here."""
    return {**tree, "heads": {names[name]: head for name, head in tree.get("heads", {}).items()}}


def _named(base: Side, tuned: Sequence[Side], apart: bool) -> Named:
    """One naming for all heads: heads of one name, kind and labels are one head. What is another head, under a name
    that is taken, is called name_2, name_3, …; `apart` takes every tuned model's heads that BASE lacks for its own.
    """
    heads, names = dict(base.checkpoint.heads), []
    for side in tuned:
        own, met = {}, dict(base.checkpoint.heads) if apart else dict(heads)
        for name, head in side.checkpoint.heads.items():
            tries = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
            own[name] = next(
                each
                for each in tries
                if each not in own.values() and (each not in heads or (each in met and alike(met[each], head)))
            )
            heads[own[name]] = head
        names.append(own)
    return Named(heads, names)


def _fisher(folder: Path, side: Side, names: dict[str, str]) -> Params:
    checkpoint = side.checkpoint
    return renamed(unpack(load_fisher(folder, checkpoint.params, base_sha256(checkpoint))[0]), names)


def _dtype(tuned: Sequence[Side]) -> str:
    """How the result is stored: as the tuned models are, float32 where they differ."""
    found = {side.checkpoint.raw_config["dtype"] for side in tuned}
    return found.pop() if len(found) == 1 else "float32"


def _told(
    settings: MergeSettings,
    base: Side,
    tuned: Sequence[Side],
    named: Named,
    heads: dict[str, Head],
    primary: str | None,
    ingredients: dict[str, Any] | None,
    length: Length,
) -> MergeRecord:
    """What merge.json says."""
    return MergeRecord(
        environment=environment(),
        how=settings.how,
        settings={name: getattr(settings.formula, name) for name in WAYS[settings.how].reads},
        base={"folder": base.name, "sha256": base_sha256(base.checkpoint)},
        tuned=[
            {"folder": side.name, "sha256": base_sha256(side.checkpoint), "heads": names}
            for side, names in zip(tuned, named.names, strict=True)
        ],
        heads={name: {"kind": head.kind, "labels": list(head.labels)} for name, head in heads.items()},
        primary=primary,
        notes=[*(note for side in (base, *tuned) for note in side.checkpoint.notes), *length.notes],
        greedy=ingredients,
    )
