"""Reports of `fft check` from check.json data: tables on the terminal, and one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fft.disk.files import replace_file, write_json, write_lines, writing
from fft.report.html import document, flat, notes, pairs, table
from fft.report.tables import NONE, STYLES, Column, rich_table, scores, signed
from fft.report.verdict import box, sentence
from fft.report.words import loss_word
from fft.stats.metrics import METRICS

if TYPE_CHECKING:
    from rich.console import Console

SHOWN, ON_PAGE = 10, 500  # maximum examples on the terminal, and on the page; SHOWN also for labels
WIDTH, LONG = 60, 100  # maximum characters of a text on the terminal, in a table and on a line of its own
CHANGE = "change: from base to tuned, + is better, with its paired 95 % interval"
COUNTS = "lost, gained: newly wrong and newly right examples"
TEST = "p: McNemar's exact test of a change"

# ---------------------------------------------------------------- columns


def _interval(change: dict[str, Any]) -> str:
    if change["low"] is None or change["high"] is None:
        return "?"
    return (
        f"[{signed(change['low'])},{signed(change['high'])}]"  # without a space, so a narrow terminal does not break it
    )


def _of_change(cell):
    """Return the cell function of a task's change; its cell is a dash if the base has no score."""
    return lambda row: NONE if row[1]["change"] is None else cell(row[1]["change"])


def _count(name: str):
    return lambda row: f"{sum(label[name] for label in row[1]['labels']):,}" if row[1]["labels"] else NONE


def _outcome(row: tuple[str, dict[str, Any]]) -> str:
    return row[1]["verdict"]["outcome"] if row[1].get("verdict") else NONE


def _scores(row: tuple[str, dict[str, Any]]) -> str:
    change, alone = row[1]["change"], row[1]["score"]
    return scores(change or {"before": None, "after": alone["value"]})


SCORES = (
    Column("task", lambda row: row[0], number=False),
    Column("rows", lambda row: f"{row[1]['score']['n']:,}"),
    Column("base → tuned", _scores),
    Column("change", _of_change(lambda change: signed(change["change"]))),
    Column("95 % interval", _of_change(_interval)),
    Column("lost", _count("lost")),
    Column("gained", _count("gained")),
    Column("verdict", _outcome, number=False, style=lambda row: STYLES.get(_outcome(row), "")),
)
LABELS = (
    Column("label", lambda row: one_line(row["label"]), number=False),
    Column("rows", lambda row: f"{row['n']:,}"),
    Column("base → tuned", scores),
    Column("change", lambda row: signed(row["change"])),
    Column("95 % interval", _interval),
    Column("lost", lambda row: f"{row['lost']:,}"),
    Column("gained", lambda row: f"{row['gained']:,}"),
)


def _answer(value: str | float | None) -> str:
    return NONE if value is None else one_line(value) if isinstance(value, str) else f"{value:.4g}"


def _text(example: dict[str, Any]) -> str:
    return example["text"] if example["pair"] is None else f"{example['text']}\n{example['pair']}"


BY_DISTANCE = {"worse": "further from the target", "better": "nearer to the target"}
TITLES = {
    "classification": {"worse": "newly wrong", "better": "newly right"},
    "answers": {"worse": "newly wrong", "better": "newly right"},
    "language": {"worse": "more nats a token", "better": "fewer nats a token"},
}
"""the titles of lists of examples, by the kind of the metric; those of every other kind are BY_DISTANCE"""
LABELLED = {"language": "tokens", "answers": "expected"}
"""what an example's `label` is, by the kind of the metric; of every other kind it is one"""
ROW = Column("row", lambda row: f"{row['row']:,}")


SAMPLES = (
    ROW,
    Column("prompt", _text, number=False),
    Column("expected", lambda row: row["label"], number=False),
    Column("base", lambda row: row["base"], number=False),
    Column("tuned", lambda row: row["tuned"], number=False),
)


def one_line(text: str, most: int = WIDTH) -> str:
    """Return a text for the terminal: on one line, cut, and without control characters."""
    line = _line(text)
    return line if len(line) <= most else line[: most - 1] + "…"


def line_end(text: str, most: int = WIDTH) -> str:
    """Return `one_line` of the end of a text: of a prompt, which begins like the others of its chat template."""
    line = _line(text)
    return line if len(line) <= most else "…" + line[1 - most :]


def _line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


# ---------------------------------------------------------------- in words


def caption(record: dict[str, Any]) -> str:
    """Return every task's metric, McNemar's p and divergence of language models, and the meaning of what is shown."""
    parts, shown = [], [CHANGE]
    if _counts(record):
        shown.append(COUNTS)
    if any(task["change"] and task["change"]["mcnemar_p"] is not None for _, task in _tasks(record)):
        shown.append(TEST)
    for name, task in _tasks(record):
        p = task["change"] and task["change"]["mcnemar_p"]
        kl = task.get("divergence")
        apart = "" if kl is None else f", KL(base ‖ tuned) {kl['value']:.3g} nats a token{_between(kl)}"
        parts.append(f"{name}: {task['score']['metric']}" + ("" if p is None else f", p = {p:.2g}") + apart)
    return "; ".join([*parts, *shown])


def _counts(record: dict[str, Any]) -> bool:
    """Whether examples are lost and gained: whether a task has labels."""
    return any(task["labels"] for _, task in _tasks(record))


def _score_columns(record: dict[str, Any]) -> tuple[Column, ...]:
    return SCORES if _counts(record) else tuple(column for column in SCORES if column.header not in ("lost", "gained"))


def _between(kl: dict[str, Any]) -> str:
    return "" if kl["low"] is None else f" [{kl['low']:.3g}, {kl['high']:.3g}]"


def verdict_sentence(record: dict[str, Any], task: dict[str, Any]) -> str:
    """Return the verdict on an original task in words, with a relative budget as given."""
    return sentence(_as_run(task)) + _share(record, task)


def _share(record: dict[str, Any], task: dict[str, Any]) -> str:
    share = record["max_drop"].endswith("%") and task["verdict"]["tolerance"] is not None
    word = loss_word([task["score"]["metric"]])
    return f"; the accepted {word} is {record['max_drop']} of the base's score" if share else ""


def _title(task: dict[str, Any], which: str) -> str:
    """Return the title of the examples in a task's `worse` or `better`."""
    return TITLES.get(METRICS[task["score"]["metric"]].kind, BY_DISTANCE)[which]


def _columns(task: dict[str, Any]) -> tuple[Column, ...]:
    """Return the columns of the examples in a task's `worse` and `better`."""
    label = LABELLED.get(METRICS[task["score"]["metric"]].kind, "label")
    return (
        ROW,
        Column(label, lambda row: _answer(row["label"]), number=False),
        Column("base", lambda row: _answer(row["base"]), number=False),
        Column("tuned", lambda row: _answer(row["tuned"]), number=False),
        Column("text", _text, number=False),
    )


def _listed(examples: Sequence[Any], most: int) -> str:
    return f"{len(examples):,}" if len(examples) <= most else f"the first {most} of {len(examples):,}"


def _as_run(task: dict[str, Any]) -> dict[str, Any]:
    """Return the task as the original of a run's record, for the sentences."""
    return {"original": task["change"], "verdict": task["verdict"]}


def _tasks(record: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return (name, task) of every task."""
    return [("original", task) for task in record["original"]] + ([("new", record["new"])] if record["new"] else [])


# ---------------------------------------------------------------- the terminal


def show(record: dict[str, Any], console: Console) -> None:
    """Print the notes, the scores, the change by label, the first worse examples, and the verdict."""
    for note in record["notes"]:
        console.out(f"note: {note}", highlight=False)
    console.print(rich_table(_score_columns(record), _tasks(record), caption(record)))
    brief = Column("text", lambda row: one_line(_text(row)), number=False)
    for task in record["original"]:
        if labels := task["labels"]:
            console.out(f"by label, {_listed(labels, SHOWN)}:", highlight=False)
            console.print(rich_table(LABELS, labels[:SHOWN]))
        if task["worse"]:
            console.out(f"{_title(task, 'worse')}, {_listed(task['worse'], SHOWN)}:", highlight=False)
            console.print(rich_table((*_columns(task)[:-1], brief), task["worse"][:SHOWN]))
    for name, task in _tasks(record):
        for sample in task.get("samples", ()):
            console.out(f"{name}, row {sample['row']}: {line_end(sample['text'], LONG)}", highlight=False)
            for who in ("label", "base", "tuned"):
                said = "expected" if who == "label" else who
                console.out(f"  {said:<9} {one_line(sample[who], LONG)}", highlight=False)
    for task in record["original"]:
        console.out(f"{task['verdict']['outcome']}: {verdict_sentence(record, task)}", highlight=False)


# ---------------------------------------------------------------- files


FILES = ("check.html", "examples.jsonl", "check.json")


def write(record: dict[str, Any], examples: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Write check.html, examples.jsonl and check.json into the folder, and return their paths.

    Raises: MachineError if they cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = [folder / name for name in FILES]
    replace_file(written[0], page(record).encode())
    write_lines(written[1], examples)
    write_json(written[2], record)
    return written


def page(record: dict[str, Any]) -> str:
    """Return the page of a check as HTML."""
    judged = record["original"]
    listed = [_examples(task, which) for which in ("worse", "better") for task in judged]
    sections = [*(box(_as_run(task), _share(record, task)) for task in judged), _table_of_scores(record)]
    sections += [
        *map(_by_label, judged),
        *(_samples(name, task) for name, task in _tasks(record)),
        *listed,
        notes(record["notes"]),
        _compared(record),
    ]
    return document(f"{record['tuned']['folder']} against {record['base']['folder']}", sections)


def _table_of_scores(record: dict[str, Any]) -> str:
    scored = table(_score_columns(record), _tasks(record))
    return f"<h2>Scores</h2>\n{scored}\n<p class='note'>{escape(caption(record))}</p>"


def _by_label(task: dict[str, Any]) -> str:
    if not task["labels"]:
        return ""
    note = "Recall of each label, largest loss first. About one in twenty of the intervals misses the true change."
    return f"<h2>By label</h2>\n{table(LABELS, task['labels'])}\n<p class='note'>{note}</p>"


def _examples(task: dict[str, Any], which: str) -> str:
    examples = task[which]
    title = f"{_title(task, which).capitalize()}: {_listed(examples, ON_PAGE)}"
    rows = table(_columns(task), examples[:ON_PAGE])
    return f'<h2>{escape(title)}</h2>\n<div class="texts">{rows}</div>' if examples else ""


def _samples(name: str, task: dict[str, Any]) -> str:
    if not task.get("samples"):
        return ""
    return f'<h2>Answers to prompts of the {name} task</h2>\n<div class="texts">{table(SAMPLES, task["samples"])}</div>'


def _compared(record: dict[str, Any]) -> str:
    compared = {name: record[name] for name in ("base", "tuned", "max_drop", "held_out", "git", "device")}
    settings = [*flat(compared)]
    for name, task in _tasks(record):
        settings += flat({name: {part: task[part] for part in ("source", "sha256", "heads")}})
    return f"<h2>What was compared</h2>\n{pairs([*settings, *record['versions'].items()])}"
