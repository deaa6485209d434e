"""The HTML page of a run: the verdict and its figures, the course of training, and how to repeat the run.

Self-contained: no script, and no external font or picture. Every text of the run is escaped.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from fft.core.naming import counted, original_names
from fft.disk.files import replace_file
from fft.report.contract import contract_sentence
from fft.report.html import document, flat, notes, pairs, paragraph, table
from fft.report.parameters import PARAMETERS, groups
from fft.report.tables import BEFORE_AFTER, Column, by_original, caption, percent, score, signed, worded
from fft.report.verdict import box
from fft.report.words import loss_word


def write_page(run: dict[str, Any], path: str | Path, picture: str) -> None:
    """Write the page of a run (run.json data) to path atomically; `picture` is the SVG text of its history.

    Raises: MachineError if it cannot be written.
    """
    path = Path(path)
    replace_file(path, page(run, path.absolute().parent.name, picture).encode())


def page(run: dict[str, Any], folder: str, picture: str) -> str:
    """Return the page of a run in a folder of that name as HTML; `picture` is the SVG text of its history."""
    title = folder if folder == run["name"] else f"{folder}: {run['name']}"
    results = (box(run), _scores(run), _history(run, picture), _contract(run), _trouble(run))
    return document(title, (*results, _parameters(run), _data(run), _settings(run), _repeat(run)))


# ---------------------------------------------------------------- sections


def _scores(run: dict[str, Any]) -> str:
    note = f"<p class='note'>{escape(caption([run]))}</p>{_tests(run)}"
    columns = worded(BEFORE_AFTER, _metrics(run).values())
    return f"<h2>Before and after</h2>\n{table(columns, by_original([run]))}\n{note}"


def _tests(run: dict[str, Any]) -> str:
    """Return McNemar's p of every task that has one."""
    tests = [
        f"{task}: p = {run[task]['mcnemar_p']:.2g}"
        for task in (*original_names(run), "new")
        if run[task] and run[task]["mcnemar_p"] is not None
    ]
    return f"<p class='note'>McNemar's exact test of a change — {escape('; '.join(tests))}</p>" if tests else ""


def _history(run: dict[str, Any], picture: str) -> str:
    if len(run["history"]) < 2:
        return ""
    whose = "an original's" if len(original_names(run)) > 1 else "the original's"
    word = loss_word(_metrics(run).values())
    crossed = f"{whose} {word} on the probe never exceeded what is accepted"
    if run["crossover"] is not None:
        crossed = f"from step {run['crossover']} on {whose} {word} on the probe exceeds what is accepted"
    ended = ", stopped for lack of progress" if run["stopped"] == "patience" else ""
    course = f"{counted(run['steps'], 'step')}{ended}; the model is step {run['kept_step']}"
    legend = f"{course}; {crossed}" if run["original"] else course
    return f"<h2>Course</h2>\n<figure>{picture}<figcaption>{escape(legend)}.</figcaption></figure>"


TRIED = (
    Column("step", lambda point: f"{point['step']:,}"),
    Column("of the way from the base", lambda point: f"{point['alpha']:g}"),
    Column("new", lambda point: "not scored" if point["new"] is None else score(point["new"])),
    Column("drop", lambda point: ", ".join(signed(drop) for drop in point["drops"].values())),
    Column("within", lambda point: "yes" if point["within"] else "no", number=False),
    Column("kept", lambda point: "kept" if point["kept"] else "", number=False),
)


MULTIPLIER = (
    "The multiplier scales the method's strength at the end of training, or divides the updates of a method without a "
    "strength. It rises while held-out original rows show more loss than is accepted and falls while they show less; "
    "at 1 nothing is changed."
)


def _contract(run: dict[str, Any]) -> str:
    """Return the section on the candidates that were tried under a contract, on validation rows."""
    contract = run["contract"]
    if contract is None:
        return ""
    rows = [point | {"kept": point == contract["kept"]} for point in contract["tried"]]
    metrics = _metrics(run)
    text = f"{paragraph(contract_sentence(contract, metrics))}\n<p class='note'>{MULTIPLIER}</p>"
    return f"<h2>The contract</h2>\n{text}\n{table(worded(TRIED, metrics.values()), rows)}"


def _metrics(run: dict[str, Any]) -> dict[str, str]:
    """Return the metric of every original task that has a score, by name."""
    return {name: run[name]["metric"] for name in original_names(run) if run[name]}


def _parameters(run: dict[str, Any]) -> str:
    counts = run["parameters"]
    summary = f"{counts['trained']:,} of {counts['total']:,} trained: {percent(counts['percent'])}"
    return f"<h2>Parameters</h2>\n<p>{escape(summary)}.</p>\n{table(PARAMETERS, groups(counts['table']))}"


def _trouble(run: dict[str, Any]) -> str:
    """Return notes of the run and warnings about its data, each once; the contract has its own section."""
    told = None if run["contract"] is None else contract_sentence(run["contract"], _metrics(run))
    texts = [note for note in run["notes"] if note != told]
    if run["skipped_steps"]:
        texts.append(f"{counted(run['skipped_steps'], 'step was', 'steps were')} skipped: loss or gradient not finite")
    texts += [f"{task}: {warning}" for task, data in run["data"].items() for warning in data["warnings"]]
    return notes(list(dict.fromkeys(texts)))


def _data(run: dict[str, Any]) -> str:
    columns = (
        Column("task", lambda row: row[0], number=False),
        Column("source", lambda row: str(row[1]), number=False),
        Column("split", lambda row: row[2], number=False),
        Column("rows", lambda row: f"{row[3]['rows']:,}"),
        Column("sha256", lambda row: row[3]["sha256"][:12], number=False),
    )
    originals = original_names(run["data"])
    rows = [
        (task, run["data"][task]["source"], name, split)
        for task in (*originals, *(name for name in run["data"] if name not in originals))
        for name, split in run["data"][task]["splits"].items()
    ]
    return f"<h2>Data</h2>\n{table(columns, rows)}"


def _settings(run: dict[str, Any]) -> str:
    return f"<h2>Settings</h2>\n{pairs(flat(run['experiment']))}"


def _repeat(run: dict[str, Any]) -> str:
    git = run["git"]
    facts = [("experiment hash", run["experiment_hash"])]
    if git["commit"]:
        facts.append(
            ("git commit", f"{git['commit']}{', with changes that are not committed' if git['dirty'] else ''}")
        )
    facts += [*flat({"device": run["device"]}), *flat({"seconds": run["seconds"]}), *run["versions"].items()]
    return (
        "<h2>To repeat</h2>\n<p>Run this in the folder where the run was started, so that relative paths are valid; "
        f"RUN is this run's folder:</p>\n<pre>fft tune --config RUN/experiment.json --out again</pre>\n{pairs(facts)}"
    )
