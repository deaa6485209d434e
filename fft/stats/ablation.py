"""Ablation tables of runs: the runs of a method that differ only in the seed are one row.

Pure functions on the data of run.json, whose experiment has every setting (`fft.experiment.with_defaults`).
"""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fft.disk.files import experiment_hash
from fft.stats.metrics import METRICS
from fft.stats.retention import starts_fresh

MIN_GAIN_SHARE = 0.5
"""the share of full fine-tuning's gain below which a run is marked"""


class Row(NamedTuple):
    """One method with one setting over its seeds.

    A score is (mean, standard deviation), None if a run lacks it; the standard deviation of a single seed is None.
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
    """Return one row for each method and setting of finished runs, in order of appearance."""
    differences = describe_differences(records)
    groups: dict[str, dict[int, int]] = {}
    for at, record in enumerate(records):
        groups.setdefault(setting_hash(record), {})[record["experiment"]["seed"]] = at
    return [
        _row([records[at] for at in seeds.values()], differences[next(iter(seeds.values()))])
        for seeds in groups.values()
    ]


def method_label(record: dict[str, Any]) -> str:
    """Return the name of a run's method in tables; a contract makes it another method, as it sets the strength."""
    name = "+".join(member["name"] for member in record["experiment"]["method"])
    return f"contract ({name})" if record.get("contract") else name


def setting_hash(record: dict[str, Any]) -> str:
    """Return a hash of the settings without the seed."""
    return experiment_hash(record["experiment"] | {"seed": None})


def describe_differences(records: Sequence[dict[str, Any]]) -> list[str]:
    """Describe for each run the settings in which the runs differ, e.g. "rank 4".

    A setting of a method is compared among the runs with that method. Without differences the text is empty.
    """
    flat = [dict(_settings(record["experiment"])) for record in records]
    seen: dict[str, list[Any]] = {}
    for settings in flat:
        for name, value in settings.items():
            if value not in seen.setdefault(name, []):
                seen[name].append(value)
    return [", ".join(_described(settings, [name for name in settings if len(seen[name]) > 1])) for settings in flat]


def gained_little(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the runs whose gain on the new task is less than half of full fine-tuning's mean gain.

    The gain is over the base's score, or with a fresh head over that of guessing. Empty without a run of `full`.
    """
    gains = {at: gain for at, record in enumerate(records) if (gain := _gain(record)) is not None}
    full = [at for at in gains if method_label(records[at]) == "full"]
    if not full or (least := MIN_GAIN_SHARE * statistics.mean(gains[at] for at in full)) <= 0:
        return []
    return [records[at]["name"] for at, gain in gains.items() if gain < least and at not in full]


def _gain(record: dict[str, Any]) -> float | None:
    """Return the gain of a run on the new task; None if there is no score to compare with."""
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
    """Yield (dotted name, value) of every setting but the seed.

    The method's settings are under its members' names, without the strength if a contract sets it.
    """
    excluded = ("name", "strength") if experiment.get("retention", {}).get("max_drop") else ("name",)
    for member in experiment["method"]:
        yield from _flat(f"{member['name']}.", {name: value for name, value in member.items() if name not in excluded})
    yield from _flat("", {name: value for name, value in experiment.items() if name not in ("method", "seed")})


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inside in value.items():
            yield from _flat(f"{prefix}{name}.", inside)
    else:
        yield prefix.removesuffix("."), value


def _described(settings: dict[str, Any], names: Sequence[str]) -> Iterator[str]:
    """Yield "name value" for some settings; a dotted name is shortened to its last part where that is unique."""
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
