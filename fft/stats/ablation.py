"""Runs as an ablation: one method with one setting over several seeds is one row.

Pure functions on run.json, whose experiment holds every setting (`fft.experiment.with_defaults`).
"""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fft.disk.files import experiment_hash
from fft.stats.metrics import METRICS
from fft.stats.retention import starts_fresh

ENOUGH = 0.5
"""of what full fine-tuning gains; a run that gains less is marked"""


class Row(NamedTuple):
    """One method with one setting over its seeds; a score is (mean, standard deviation), None where there is none,
    and its standard deviation is None for one seed.
    """

    method: str
    settings: str
    seeds: int
    original: tuple[float, float | None] | None
    forgotten: tuple[float, float | None] | None
    new: tuple[float, float | None] | None
    kept: tuple[int, ...]
    steps: tuple[int, ...]


def ablation(records: Sequence[dict[str, Any]]) -> list[Row]:
    """A row for each method and setting of finished runs, in the order in which they come."""
    told = differing(records)
    groups: dict[str, dict[int, int]] = {}
    for at, record in enumerate(records):
        groups.setdefault(setting_hash(record), {})[record["experiment"]["seed"]] = at
    return [_row([records[at] for at in seeds.values()], told[next(iter(seeds.values()))]) for seeds in groups.values()]


def method_label(record: dict[str, Any]) -> str:
    """What a run's method is called among others: under a contract its strength is no setting, and it is another."""
    name = "+".join(member["name"] for member in record["experiment"]["method"])
    return f"contract ({name})" if record.get("contract") else name


def setting_hash(record: dict[str, Any]) -> str:
    """What runs have in common that differ in nothing but their seed."""
    return experiment_hash(record["experiment"] | {"seed": None})


def differing(records: Sequence[dict[str, Any]]) -> list[str]:
    """For each run, in words, the settings in which those runs differ that have them; a setting of a method is one of
    the runs with it. Nothing where they agree.
    """
    flat = [dict(_settings(record["experiment"])) for record in records]
    seen: dict[str, list[Any]] = {}
    for each in flat:
        for name, value in each.items():
            if value not in seen.setdefault(name, []):
                seen[name].append(value)
    return [", ".join(_words(each, [name for name in each if len(seen[name]) > 1])) for each in flat]


def gained_little(records: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the runs that gained less than half of what full fine-tuning gained, on average, on the new task:
    from the base's score on, or from that of guessing where the head was fresh. Empty without a run of `full`.
    """
    gains = {at: gain for at, record in enumerate(records) if (gain := _gain(record)) is not None}
    full = [at for at in gains if method_label(records[at]) == "full"]
    if not full or (least := ENOUGH * statistics.mean(gains[at] for at in full)) <= 0:
        return []
    return [records[at]["name"] for at, gain in gains.items() if gain < least and at not in full]


def _gain(record: dict[str, Any]) -> float | None:
    """What a run gained on the new task; None where nothing says from where on."""
    change = record["new"]
    if not change or change.get("undefined") or change["after"] is None:
        return None
    metric = METRICS[change["metric"]]
    if not starts_fresh(record):
        return None if change["before"] is None else metric.sign * (change["after"] - change["before"])
    if metric.sign < 0:
        return None
    head = record["heads"][record["data"]["new"]["head"]]
    return change["after"] - (0.0 if metric.by_variation else 1 / len(head["labels"]))


def _settings(experiment: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every setting but the seed; those of the method under its members' names, without the
    strength that a contract drives.
    """
    driven = ("name", "strength") if experiment.get("retention", {}).get("max_drop") else ("name",)
    for member in experiment["method"]:
        yield from _flat(f"{member['name']}.", {name: value for name, value in member.items() if name not in driven})
    yield from _flat("", {name: value for name, value in experiment.items() if name not in ("method", "seed")})


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inside in value.items():
            yield from _flat(f"{prefix}{name}.", inside)
    else:
        yield prefix.removesuffix("."), value


def _words(settings: dict[str, Any], names: Sequence[str]) -> Iterator[str]:
    """Some settings in words, by their last name where no other has that."""
    last = [name.rpartition(".")[2] for name in names]
    for name, short in zip(names, last, strict=True):
        if (value := settings[name]) is not None:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            spelled = short if last.count(short) == 1 else name
            yield f"{spelled.replace('_', '-')} {shown}"


def _row(runs: Sequence[dict[str, Any]], settings: str) -> Row:
    def over_seeds(task: str, field: str, sign: int = 1) -> tuple[float, float | None] | None:
        values = [run[task][field] for run in runs if run[task] and run[task][field] is not None]
        if len(values) < len(runs):
            return None
        return sign * statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None

    return Row(
        method_label(runs[0]),
        settings,
        len(runs),
        over_seeds("original", "after"),
        over_seeds("original", "change", -1),
        over_seeds("new", "after"),
        tuple(run["kept_step"] for run in runs),
        tuple(run["steps"] for run in runs),
    )
