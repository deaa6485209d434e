"""`fft merge`: merge models tuned from one base into one model, without training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from annotated_types import Interval

from fft import models
from fft.after.pair import Side, length_of_sides, refuse_other_shape, refuse_other_vocabulary
from fft.after.settings import MergeSettings
from fft.core.bounds import check_value
from fft.core.errors import InputError
from fft.core.naming import UNEMBED, names_from
from fft.core.tree import Params, flatten, overlay
from fft.data import prepare_held_out
from fft.data.settings import predicts_tokens
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
from fft.models.files.tensors import refuse_not_finite
from fft.models.heads import chosen_head
from fft.models.identity import base_sha256
from fft.run.restored import Length, load_checkpoint, model_folder
from fft.stats.metrics import METRICS
from fft.stats.records import MergeRecord

RECORD = "merge.json"


class CommonHeads(NamedTuple):
    """The heads of several models under common names."""

    heads: dict[str, Head]
    names: list[dict[str, str]]
    """for each tuned model: {its own name of a head: the common name}"""


def merge(settings: MergeSettings, out: Path) -> dict[str, Any]:
    """Merge, and write the checkpoint OUT atomically, with merge.json in it; return the content of merge.json.

    Raises: InputError for models of different families, shapes or vocabularies, or trained at different lengths,
    settings that the formula does not take, Fisher information of other weights, a missing head, and a folder that is
    not empty.
    """
    check(settings.how, len(settings.tuned), settings.formula)
    out = Path(local(out, "--out"))
    refuse_taken(out)
    names = settings.base, *settings.tuned
    language = all(models.predicts_next(model_folder(name)) for name in names)
    sides = base, *tuned = [Side(name, load_checkpoint(name, language)) for name in names]
    for side in tuned:
        refuse_other_shape(base, side, "merged")
        refuse_other_vocabulary(base, side, "merged")
    length = _length(settings.max_length, sides)
    common = _common_heads(base, tuned, settings.heads == "apart")
    trees = [renamed(side.checkpoint.params, names) for side, names in zip(tuned, common.names, strict=True)]
    # For task vectors, a head that a tuned model lacks has not moved there. A soup and Fisher merging average over the
    # models that have it.
    moved = [overlay(base.checkpoint.params, tree) for tree in trees] if "scale" in WAYS[settings.how].reads else trees
    fishers = [_fisher(*parts) for parts in zip(settings.formula.fisher, tuned, common.names, strict=False)]
    first = tuned[0].checkpoint
    primaries = [
        side.checkpoint.primary and names[side.checkpoint.primary]
        for side, names in zip(tuned, common.names, strict=True)
    ]
    primary = next(filter(None, primaries), None)
    template = first._replace(
        heads=common.heads,
        primary=primary,
        raw_config={**first.raw_config, "dtype": _dtype(tuned)},
        max_length=length.tokens if length.known else None,
    )
    primary = chosen_head(template, settings.head, "the merged model", "") if settings.head else template.primary
    ingredients = None
    if settings.task.source:
        ingredients = _ingredients(settings.task, template, tuned, trees, primary)
        moved = [moved[at] for at in ingredients["chosen"]]
    inputs = Models(base.checkpoint.params, moved, first.model.depth, fishers)
    params = merged(settings.how, inputs, settings.formula)
    refuse_not_finite(flatten(params), f"--how {settings.how} with these settings")
    heads = {name: common.heads[name] for name in params.get("heads", {})}
    record = _record(settings, base, tuned, common, heads, primary, ingredients, length).to_json()
    models.save(template._replace(params=params, heads=heads), out, primary, beside={RECORD: record})
    return record


def _length(requested: int | None, sides: Sequence[Side]) -> Length:
    """Return the length of the merged model.

    Raises: InputError for a requested length that the model does not take; as `scored_length`.
    """
    if requested is not None:
        most = sides[0].checkpoint.model.config.max_positions
        check_value("max-length", requested, Annotated[int, Interval(ge=LEAST_LENGTH, le=most)])
    return length_of_sides(requested, sides)


def _ingredients(
    data: Data, template: Checkpoint, tuned: Sequence[Side], trees: Sequence[Params], head: str | None
) -> dict[str, Any]:
    """Choose the tuned models of a greedy soup by their scores on the validation rows of `data`.

    Returns {"source", "metric", "rows", "scores": of each model, "soup": of the soup, "chosen": indices, best first}.

    Raises: InputError for a tuned model without the head, and for data that do not fit it; UndecidableError for
    validation rows on which the score is not defined.
    """
    head = UNEMBED if predicts_tokens([data]) else head
    for side, tree in zip(tuned, trees, strict=True):
        if head != UNEMBED and head not in tree.get("heads", {}):
            raise InputError(
                f"{side.name} has no head {head}, with which --task would choose; name another with --head"
            )
    assert head is not None  # the tuned models have it
    task = prepare_held_out(data, template, head, template.head(head), template.max_length)
    refuse_undefined({"--task": task}, "validation")
    rows, metric = HeldOut(template.model, {"task": task}), METRICS[task.task.metric]

    def score(params: Params) -> float:
        return metric.sign * rows.scores(params)["task"]

    soup, chosen = greedy_soup(trees, score)
    scores = [metric.sign * score(tree) for tree in trees]
    source = {"source": data.source, "metric": task.task.metric, "rows": task.identity["validation"]}
    return {**source, "scores": scores, "soup": metric.sign * score(soup), "chosen": list(chosen)}


def renamed(tree: Params, names: dict[str, str]) -> Params:
    """Return a tree with its heads renamed by `names`, {old: new}."""
    return {**tree, "heads": {names[name]: head for name, head in tree.get("heads", {}).items()}}


def _common_heads(base: Side, tuned: Sequence[Side], apart: bool) -> CommonHeads:
    """Return common names for all heads: heads with the same name, kind and labels are one head.

    A different head whose name is taken is called name_2, name_3, …. With `apart`, only heads of BASE are shared: every
    other head of a tuned model is its own.
    """
    heads, names = dict(base.checkpoint.heads), []
    for side in tuned:
        own, shareable = {}, dict(base.checkpoint.heads) if apart else dict(heads)
        for name, head in side.checkpoint.heads.items():
            own[name] = next(
                new
                for new in names_from(name)
                if new not in own.values() and (new not in heads or (new in shareable and alike(shareable[new], head)))
            )
            heads[own[name]] = head
        names.append(own)
    return CommonHeads(heads, names)


def _fisher(folder: Path, side: Side, names: dict[str, str]) -> Params:
    checkpoint = side.checkpoint
    return renamed(unpack(load_fisher(folder, checkpoint.params, base_sha256(checkpoint))[0]), names)


def _dtype(tuned: Sequence[Side]) -> str:
    """Return the dtype in which the result is stored: that of the tuned models, float32 if they differ."""
    dtypes = {side.checkpoint.raw_config["dtype"] for side in tuned}
    return dtypes.pop() if len(dtypes) == 1 else "float32"


def _record(
    settings: MergeSettings,
    base: Side,
    tuned: Sequence[Side],
    common: CommonHeads,
    heads: dict[str, Head],
    primary: str | None,
    ingredients: dict[str, Any] | None,
    length: Length,
) -> MergeRecord:
    """Return the content of merge.json."""
    return MergeRecord(
        environment=environment(),
        how=settings.how,
        settings={name: getattr(settings.formula, name) for name in WAYS[settings.how].reads},
        base={"folder": base.name, "sha256": base_sha256(base.checkpoint)},
        tuned=[
            {"folder": side.name, "sha256": base_sha256(side.checkpoint), "heads": names}
            for side, names in zip(tuned, common.names, strict=True)
        ],
        heads={name: {"kind": head.kind, "labels": list(head.labels)} for name, head in heads.items()},
        primary=primary,
        notes=[*(note for side in (base, *tuned) for note in side.checkpoint.notes), *length.notes],
        greedy=ingredients,
    )
