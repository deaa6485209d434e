"""Tables, pictures and the page: every figure of run.json in its place, nothing unescaped, nothing overlapping."""

import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from rich.console import Console

from fft.core.errors import MachineError
from fft.report import drawing, front, history, labels, places, style, tables
from fft.report.contract import contract_sentence
from fft.report.page import page, write_page
from fft.report.parameters import MOST_ROWS, groups, parameter_markdown, parameter_table
from fft.report.verdict import sentence
from tests.helpers.outline import Outline

HOSTILE = "<script>alert('&amp;\"x')</script>"


def change(before, after, n=1005, metric="accuracy", low=-0.015, high=0.013, sign=1):
    value = sign * (after - before)
    ends = {"change": value, "low": value + low, "high": value + high}
    return {"metric": metric, "before": before, "after": after, **ends, "n": n, "mcnemar_p": 0.25, "changed": 9}


def parameters(layers=6, multiplier=lambda layer: 1.0):
    def row(path, *shape, rate=1.0):
        return {"path": path, "shape": list(shape), "trained": rate > 0, "multiplier": rate}

    table = [row("embed/word/embedding", 50, 8), row("embed/norm/scale", 8)]
    for i in range(layers):
        rate = multiplier(i)
        for name in ("query", "key", "value", "out"):
            table.append(row(f"layers/{i}/attention/{name}/kernel", 8, 8, rate=rate))
            table.append(row(f"layers/{i}/attention/{name}/bias", 8, rate=rate))
    table += [row("heads/new/out/kernel", 8, 2), row("heads/original/out/kernel", 8, 2, rate=0.0)]
    return table


def paged(run, folder):
    """The page of a run with its picture."""
    return page(run, folder, drawing.svg(history.history_chart(run)))


def make_run(name="lora+ewc", outcome="undecided", after=0.868, original=True):
    table = parameters(multiplier=lambda layer: 0.0 if layer < 2 else 0.9)
    total = sum(math.prod(row["shape"]) for row in table)
    trained = sum(math.prod(row["shape"]) for row in table if row["trained"])
    splits = {role: {"rows": 337, "sha256": "3" * 64} for role in ("validation", "test")}
    data = {"source": "file:new.csv", "splits": splits, "warnings": ["3 cut"]}
    score = change(0.886, after)
    drop = {"drop": -score["change"], "drop_low": -score["high"], "drop_high": -score["low"]}
    needed = 2310 if outcome == "undecided" else None
    return {
        "name": name,
        "experiment": {"model": "base", "optim": {"lr": 1e-4, "steps": None}, "method": [{"name": "lora"}]},
        "experiment_hash": "ab" * 32,
        "git": {"commit": "c" * 40, "dirty": True},
        "versions": {"jax": "0.10.2"},
        "device": {"platform": "cpu"},
        "data": {"new": data, **({"original": {**data, "source": "demo:movie"}} if original else {})},
        "parameters": {"total": total, "trained": trained, "percent": 100 * trained / total, "table": table},
        "notes": ["a note"],
        "steps": 400,
        "best_step": 200,
        "kept_step": 400,
        "stopped": "steps",
        "contract": None,
        "skipped_steps": 0,
        "history": [
            {
                "step": 100 * i,
                "original": 0.886 - 0.005 * i if original else None,
                "new": 0.7 + 0.05 * i,
                "combined": 0.7,
            }
            for i in range(5)
        ],
        "crossover": 300 if original else None,
        "original": score if original else None,
        "new": change(0.732, 0.957, n=337),
        "verdict": {"outcome": outcome, "tolerance": 0.01, **drop, "needed": needed} if original else None,
        "seconds": {"total": 1103.4, "train": 60.0},
    }


def printed(table, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue()


# ---------------------------------------------------------------- tables


def test_before_after_fits_80_columns_and_loses_nothing():
    runs = [make_run("full", "fail"), make_run("freeze+layerwise"), make_run("ewc", "pass", after=0.8865)]
    text = printed(tables.before_after(runs), 80)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    words = text.split()
    for word in (
        *("full", "freeze+", "layerwise", "0.886", "0.868", "+0.018", "±0.014", "0.732", "0.957", "+0.225"),
        *("1,103", "undecided", "fail", "pass", "0.000"),
    ):
        assert word in words
    assert "…" not in text
    assert "1,005" in text
    wide = printed(tables.before_after(runs), 120)
    assert "0.886 → 0.868  +0.018 ±0.014" in wide


def test_markdown_holds_the_same_cells_as_the_terminal():
    runs = [make_run("full", "fail"), make_run("a|b\nc")]
    lines = tables.markdown(runs).splitlines()
    found = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:4]]
    assert found[0] == tables.cells(tables.BEFORE_AFTER, runs)[0]
    assert found[1][0] == r"a\|b c"
    table = tables.before_after(runs)
    assert [cell.plain for cell in table.columns[1].cells] == [line[1] for line in found]
    assert len(lines[1].split("|")) == len(lines[0].split("|"))
    assert tables.caption(runs) in lines


def test_the_caption_has_the_order_of_the_rows():
    first, second = make_run("a"), make_run("b")
    first["original"] |= {"n": 41}
    second["original"] |= {"n": 39}
    first["verdict"], second["verdict"] = (
        {**run["verdict"], "tolerance": t} for run, t in ((first, 0.05), (second, 0.02))
    )
    caption = tables.caption([first, second])
    assert "on 41 test examples or accuracy on 39 test examples" in caption and "accepted drop: 0.05 or 0.02" in caption


def test_figures_as_text():
    assert [tables.signed(value) for value in (0.0631, -0.0631, -0.0001, None)] == ["+0.063", "−0.063", "0.000", "–"]
    assert [tables.percent(value) for value in (100.0, 21.84, 0.2712)] == ["100 %", "21.8 %", "0.271 %"]
    assert tables.half_width({"low": -0.01, "high": 0.03}) == "±0.020"


def test_names_are_not_markup_and_verdicts_have_their_colour():
    table = tables.before_after([make_run("[red]x[/red]"), make_run(outcome="fail"), make_run(outcome="pass")])
    assert "[red]x[/red]" in printed(table, 100)
    assert [cell.style for cell in table.columns[-1].cells] == ["yellow", "red", "green"]


@pytest.mark.parametrize("name", ["[/joy]", "[joy]", "[bold]x", "[0]", "a[/]"])
def test_square_brackets_are_shown_as_they_are(name):
    """In a header, a cell, a caption; of what people name: heads, labels, files."""
    text = printed(tables.rich_table([tables.Column(name, lambda row: row)], [name], f"of {name}"), 60)
    assert text.count(name) == 3 and f"of {name}" in text
    place = {"layer": f"head {name}", "role": f"head {name}", "share": 1.0, "mean": 0.1, "parameters": 3}
    assert printed(places.places_table([place]), 100).count(f"head {name}") == 2


def test_a_run_without_an_original_or_with_a_lost_score_has_dashes():
    lost = make_run()
    lost["original"] |= {"after": None, "change": None, "low": None, "high": None}
    none, broken = tables.cells(tables.BEFORE_AFTER, [make_run(original=False), lost])
    assert none[1:3] == ["–", "–"]
    assert none[-1] == "–"
    assert broken[1:3] == ["0.886 → –", "–"]


def expand(pattern):
    """The regex of the paths a group's pattern stands for, by the notation's own rules."""

    def numbers(match):
        found = []
        for part in match[1].split(","):
            first, _, last = part.partition("..")
            found += range(int(first), int(last or first) + 1)
        return f"({'|'.join(map(str, found))})"

    return re.sub(r"\\\{(.*?)\\\}", lambda m: numbers((m[0], m[1].replace("\\", ""))), re.escape(pattern)).replace(
        r"\*", ".*"
    )


@pytest.mark.parametrize(
    "table",
    [
        parameters(12),
        parameters(12, lambda layer: 0.9 ** (12 - layer)),
        parameters(12, lambda layer: 0.0 if layer in (1, 11) else 0.5),
        parameters(3)[:1],
    ],
)
def test_groups_stand_for_every_parameter_once(table):
    found = groups(table)
    assert len(found) <= MOST_ROWS
    for row in table:
        mine = [group for group in found if re.fullmatch(expand(group.pattern), row["path"])]
        assert len(mine) == 1, row["path"]
        assert (mine[0].trained, mine[0].multiplier) == (row["trained"], row["multiplier"])
        assert mine[0].shape in (None, tuple(row["shape"]))
    assert sum(group.tensors for group in found) == len(table)
    assert sum(group.parameters for group in found) == sum(math.prod(row["shape"]) for row in table)


def test_layers_that_agree_share_a_row():
    patterns = [group.pattern for group in groups(parameters(6))]
    assert "layers/{0..5}/attention/query/kernel" in patterns
    split = [group.pattern for group in groups(parameters(6, lambda i: 0.0 if i in (0, 1, 4) else 1.0))]
    assert "layers/{0..1,4}/attention/out/bias" in split
    assert "layers/{2..3,5}/attention/out/bias" in split
    rates = [group.pattern for group in groups(parameters(12, lambda i: 0.9**i))]
    assert "layers/11/*" in rates
    assert "layers/1/*" in rates


def test_parameter_table_states_the_sum():
    run = make_run()
    text = printed(parameter_table(run["parameters"]["table"]), 100)
    assert f"{run['parameters']['trained']:,} of {run['parameters']['total']:,} parameters trained" in text
    assert "8 × 8" in text
    assert "| layers/{0..1}/attention/query/kernel | 8 × 8 | 2 | 128 | frozen | – |" in parameter_markdown(
        run["parameters"]["table"]
    )


# ---------------------------------------------------------------- pictures


def svg_texts(path):
    return [" ".join(node.itertext()) for node in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_the_front_names_every_point_and_both_axes(tmp_path):
    runs = [make_run("full", "fail", 0.823), make_run(HOSTILE), make_run("ewc", "pass", 0.886)]
    vector, pixels = front.front_of_runs([make_run(original=False), *runs], tmp_path / "front.v1")
    assert (vector.name, pixels.name) == ("front.v1.svg", "front.v1.png")
    assert pixels.read_bytes().startswith(b"\x89PNG")
    found = svg_texts(vector)
    for text in ("base", "full", HOSTILE, "ewc", "original task: accuracy on test, N = 1,005"):
        assert text in found
    assert "new task: accuracy on test, N = 337" in found
    assert any("bars: 95 % interval of the change from the base" in text for text in found)


def test_many_points_of_a_front_each_have_a_look_of_their_own(tmp_path):
    points = [front.Point(f"run-{i}", 0.8 + 0.001 * (i % 4), 0.9 + 0.001 * (i // 4)) for i in range(17)]
    vector, _ = front.front(points, tmp_path / "many", bars="bars: least and greatest of 3")
    found = svg_texts(vector)
    assert all(point.name in found for point in points) and any("least and greatest" in text for text in found)
    assert len({front.looks(number) for number in range(64)}) == 64
    data = json.dumps(front.front_chart(points, "original", "new", "bars").to_dict())
    drawn = re.findall(r'"name": "(run-\d+)"[^{}]*"colour": "(#\w+)", "shape": "([\w-]+)"', data)
    assert len({(colour, shape) for _, colour, shape in drawn}) == len({name for name, *_ in drawn}) == 17


def test_front_points_are_scores_with_the_paired_interval():
    run = make_run("full", after=0.86)
    base, point = front.front_points([make_run(original=False), run])
    assert (base.original, base.new) == (0.886, 0.732)
    assert (point.original, point.new) == (0.86, 0.957)
    np.testing.assert_allclose(point.original_interval, (0.86 - 0.015, 0.86 + 0.013))
    run["new"] = change(0.5, 0.995)
    assert front.front_points([run])[1].new_interval[1] == 1.0, "an accuracy is at most 1"
    run["original"] = change(1.0, 1.2, metric="rmse", sign=-1)
    np.testing.assert_allclose(front.front_points([run])[1].original_interval, (1.2 - 0.013, 1.2 + 0.015))
    assert front.front_points([make_run(original=False)]) == []
    assert front.front_of_runs([make_run(original=False)], "nowhere") == []


def test_labels_cover_neither_marks_nor_each_other():
    rng = np.random.default_rng(0)
    frame = labels.Box(0, 0, 560, 380)
    for _ in range(50):
        at = [(float(x), float(y)) for x, y in rng.uniform((8, 8), (552, 372), (6, 2))]
        marks = [labels.Box(x - 7, y - 7, x + 7, y + 7) for x, y in at]
        placed = labels.place([(60.0, 16.0)] * 6, at, marks, frame)
        for i, box in enumerate(placed):
            assert labels.overlap(box, frame) == pytest.approx(60 * 16)
            assert not any(labels.overlap(box, other) for other in (*marks, *placed[:i]))


def test_no_line_to_a_label_crosses_another_mark():
    rng = np.random.default_rng(0)
    frame, crossed, lines = labels.Box(0, 0, 560, 380), 0, 0
    for _ in range(50):
        at = [(float(x), float(y)) for x, y in rng.uniform((200, 120), (360, 260), (7, 2))]
        marks = [labels.Box(x - 7, y - 7, x + 7, y + 7) for x, y in at]
        for i, box in enumerate(labels.place([(90.0, 16.0)] * 7, at, marks, frame)):
            for j in set(range(7)) - {i}:
                if math.dist(at[i], at[j]) > 2 * labels.CLEAR:  # marks that touch are not told apart by any line
                    lines += 1
                    crossed += labels.distance_to_line(at[j], at[i], labels.nearest(box, at[i])) < 7
    assert crossed == 0 and lines > 1000


def test_the_distance_to_a_line_ends_at_its_ends():
    assert labels.distance_to_line((3.0, 4.0), (0.0, 0.0), (10.0, 0.0)) == 4.0
    assert labels.distance_to_line((-3.0, 4.0), (0.0, 0.0), (10.0, 0.0)) == 5.0
    assert labels.distance_to_line((3.0, 4.0), (0.0, 0.0), (0.0, 0.0)) == 5.0


def test_labels_are_at_their_points_and_not_at_others():
    rng = np.random.default_rng(0)
    frame, away, all_of_them = labels.Box(0, 0, 784, 532), 0, 0
    for _ in range(20):
        at = [(float(x), float(y)) for x, y in rng.uniform((500, 100), (740, 480), (15, 2))]
        marks = [labels.Box(x - 7, y - 7, x + 7, y + 7) for x, y in at]
        placed = labels.place([(70.0, 16.0)] * 15, at, marks, frame)
        for i, box in enumerate(placed):
            nearest = min(range(15), key=lambda other: labels.distance(box, at[other]))
            away, all_of_them = away + (nearest != i), all_of_them + 1
            assert labels.distance(box, at[i]) < 90
    assert away < 0.05 * all_of_them


def test_overlap_by_counting_pixels():
    rng = np.random.default_rng(1)
    for _ in range(20):
        (al, bl), (at, bt) = rng.integers(0, 9, (2, 2))
        a, b = labels.Box(al, at, al + 6, at + 4), labels.Box(bl, bt, bl + 3, bt + 7)
        pixels = [{(x, y) for x in range(o.left, o.right) for y in range(o.top, o.bottom)} for o in (a, b)]
        assert labels.overlap(a, b) == len(pixels[0] & pixels[1])


def test_ticks_are_round_and_never_past_1():
    assert drawing.ticks([0.91, 0.999]) == pytest.approx([0.9, 0.92, 0.94, 0.96, 0.98, 1.0])
    assert drawing.ticks([0.5, 0.5])
    for high in np.linspace(0.2, 1, 50):
        for low in np.linspace(0, high, 7):
            found = drawing.ticks([low, high])
            assert found[0] <= low + 1e-9 <= found[-1] + 1e-9
            assert high <= found[-1] + 1e-9 <= 1 + 1e-6
            assert len(found) <= 11


def test_the_history_marks_the_crossover_and_the_best_step(tmp_path):
    vector, pixels = drawing.save(drawing.svg(history.history_chart(make_run())), tmp_path / "history")
    found = svg_texts(vector)
    for text in ("best step 200", "crossover 300", "original task accuracy, validation probe", "step"):
        assert text in found
    assert any("accepted drop of 0.01" in text for text in found)
    assert pixels.read_bytes().startswith(b"\x89PNG")
    alone = svg_texts(drawing.save(drawing.svg(history.history_chart(make_run(original=False))), tmp_path / "alone")[0])
    assert "best step 200" in alone
    assert not any("original" in text or "crossover" in text for text in alone)


def test_the_band_of_rmse_is_above_and_a_lost_score_is_left_out():
    run = make_run()
    run["original"]["metric"] = "rmse"
    run["history"][2]["original"] = None
    spec = json.dumps(history.history_chart(run).to_dict())
    assert re.search(r'"score": 0.886, "edge": 0.896', spec)
    assert '"score": null' not in spec


# ---------------------------------------------------------------- the page


@pytest.mark.parametrize("outcome", ["pass", "fail", "undecided"])
def test_the_page_begins_with_the_verdict(outcome):
    outline = Outline(paged(make_run(outcome=outcome), "runs"))
    assert outline.open == []
    text = " ".join(" ".join(outline.words).split())
    said = sentence(make_run(outcome=outcome))
    assert said[1:] in text
    assert text.index("Before and after") > text.index(said[1:])
    order = ("Before and after", "Course", "Notes and warnings", "Parameters", "Data", "Settings", "To repeat")
    assert sorted(order, key=text.index) == list(order)
    assert "the model is step 400;" in text, "with --keep latest it is not the best step"
    repeat = "fft tune --config RUN/experiment.json"
    for words in ("a note", "original: 3 cut", "optim.lr 0.0001", repeat, "c" * 40, "cpu"):
        assert words in text.replace("\n", " ")
    assert ("2,310 test examples would decide" in text) == (outcome == "undecided")


@pytest.mark.parametrize(
    ("needed", "n", "said"),
    [
        (2_310, 1_005, "about 2,310 test examples would decide"),
        (9_999, 1_005, "about 9,999 test examples would decide"),
        (10_001, 1_005, "no feasible number of test examples would decide"),
        (90_450_001, 1_005, "no feasible number of test examples would decide"),
        (12_345, 4_000, "about 12,000 test examples would decide"),
        (None, 1_005, "no feasible number of test examples would decide"),
    ],
)
def test_estimates_are_rounded_and_none_is_given_where_the_drop_is_within_noise(needed, n, said):
    run = make_run(outcome="undecided")
    run["verdict"]["needed"], run["original"]["n"] = needed, n
    assert sentence(run).endswith(said)


def test_the_sentence_has_every_figure():
    assert sentence(make_run()) == (
        "original accuracy 0.886 → 0.868 on 1,005 test examples, a drop of +0.018 (95 % interval +0.005 to +0.033); "
        "accepted is 0.01; about 2,310 test examples would decide"
    )
    assert sentence(make_run(original=False)) == ""


def in_nats(outcome="fail"):
    """A run whose original score rose from 11.304 to 11.599 nats a token, which is worse."""
    run = make_run(outcome=outcome)
    run["original"] = change(11.304, 11.599, metric="nats", low=-0.02, high=0.02, sign=-1)
    drop = {"drop": 0.295, "drop_low": 0.275, "drop_high": 0.315}
    run["verdict"] = run["verdict"] | drop
    return run


def test_where_lower_is_better_a_loss_is_a_rise_in_every_report():
    run = in_nats()
    assert sentence(run).startswith(
        "original nats 11.304 → 11.599 on 1,005 test examples, a rise of +0.295 (95 % interval +0.275 to +0.315)"
    )
    text = tables.markdown([run])
    assert "| rise |" in text.splitlines()[0] and "accepted rise: " in text and "drop" not in text
    assert "| drop or rise |" in tables.markdown([run, make_run()]).splitlines()[0]
    point = {"step": 400, "alpha": 1.0, "original": 11.3, "new": 0.9, "within": True} | LOST
    told = {"margins": {"original": 0.01}, "met": True, "kept": point, "tried": [point], "strength": 2.0}
    said = contract_sentence(told, {"original": "nats"})
    assert "a rise of +0.0040 on validation rows where 0.01 is allowed" in said and "drop" not in said
    fell = told | {"kept": point | {"drops": {"original": -0.004}}}
    assert "a rise of −0.0040 on validation rows" in contract_sentence(fell, {"original": "nats"})
    missed = contract_sentence(told | {"met": False}, {"original": "nats"})
    assert "keeps the original rise within 0.01" in missed
    words = " ".join(Outline(paged(run | {"contract": told, "notes": [said]}, "runs")).words)
    assert words.count("a rise of") == 2 and not re.search(r"\bdrop", words), words
    assert "accepted rise of" in json.dumps(history.history_chart(run).to_dict())


def test_every_text_of_the_run_is_escaped():
    def spoil(value):
        if isinstance(value, dict):
            return {key: spoil(item) for key, item in value.items()}
        if isinstance(value, list):
            return [spoil(item) for item in value]
        return value + HOSTILE if isinstance(value, str) else value

    run = make_run()
    spoiled = spoil(run) | {key: run[key] for key in ("stopped", "parameters", "original", "new", "verdict")}
    spoiled["experiment"][HOSTILE] = spoiled["versions"][HOSTILE] = HOSTILE
    spoiled["data"]["new"]["splits"][HOSTILE] = {"rows": 1, "sha256": HOSTILE}
    spoiled["parameters"]["table"][0]["path"] = HOSTILE
    text = paged(spoiled, HOSTILE)
    outline = Outline(text)
    assert outline.open == []
    assert "script" not in outline.tags
    assert "<script" not in text
    assert "".join(outline.words).count(HOSTILE) > 10


def test_the_page_loads_nothing_and_its_colours_are_the_pictures():
    text = paged(make_run(), "runs")
    assert Outline(text).loads == []
    assert "url(" not in text
    assert "@import" not in text
    drawn = set(re.findall(r'(?:fill|stroke)="(#\w{6})"', drawing.svg(history.history_chart(make_run()))))
    replaced = set(re.findall(r'svg \[\w+="(#\w{6})"\]', style.STYLE))
    assert replaced <= drawn, "a colour of the pictures changed; the dark page would not follow"
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_a_page_without_an_original_or_a_history():
    run = make_run(original=False)
    run["history"] = run["history"][:1]
    text = paged(run, "runs")
    assert "forgetting was not measured" in text
    assert "<svg" not in text
    assert Outline(text).open == []


@pytest.mark.parametrize(
    "contract", [None, {"margins": {"original": 0.01}, "met": False, "tried": [], "strength": 1.0}]
)
def test_a_base_that_was_kept_is_not_a_success(contract):
    run = make_run(outcome="pass") | {"kept_step": 0}
    if contract:
        point = {"step": 4, "alpha": 1.0, "original": 0.8, "new": None, "drop": 0.086, "drops": {"original": 0.086}}
        run["contract"] = contract | {"kept": point | {"step": 0}, "tried": [point | {"within": False}]}
    said = "the contract is not met" if contract else "no scored step beat it"
    assert sentence(run).startswith(f"the base is kept, {said}: original accuracy")
    text = " ".join(" ".join(Outline(paged(run, "runs")).words).split())
    assert f"The base is kept, {said}" in text and "Passed: the original task is within" not in text


def test_no_text_of_a_page_steers_a_terminal_or_turns_letters_round():
    run = make_run() | {"notes": ["\x1b[2J\x07 and \u202eback\u2066 \x9b1m, a b\tc\nd Привет 👩‍🔬"]}
    text = paged(run, "runs")
    assert not set(text) & {"\x1b", "\x07", "\u202e", "\u2066", "\x9b"}
    assert "a b\tc\nd Привет 👩‍🔬" in text


def test_the_page_has_every_point_that_was_tried_under_a_contract():
    def point(alpha, new, drop):
        scores = {"original": 0.886 - drop, "new": new, "drop": drop, "drops": {"original": drop}}
        return {"step": 400, "alpha": alpha, **scores, "within": new is not None}

    tried = [point(1.0, None, 0.03), point(0.5, 0.81, 0.004)]
    told = {"margins": {"original": 0.01}, "met": True, "kept": tried[1], "tried": tried, "strength": 2.0}
    outline = Outline(paged(make_run() | {"contract": told}, "runs"))
    text = " ".join(" ".join(outline.words).split())
    assert "400 1 not scored +0.030 no" in text and "400 0.5 0.810 +0.004 yes kept" in text
    assert "The multiplier scales the method's strength" in text


LOST = {"drop": 0.004, "drops": {"original": 0.004}}


def test_the_kept_point_of_a_contract_lies_where_it_was_judged():
    kept = {"step": 400, "alpha": 1.0, "original": 0.886, "new": 0.9, "within": True} | LOST
    told = {"margins": {"original": 0.01}, "met": True, "kept": kept, "tried": [kept], "strength": 2.0}
    spec = json.dumps(history.history_chart(make_run() | {"contract": told}).to_dict())
    assert '"step": 400, "score": 0.882}' in spec, "0.886 on the probe less the drop on the rows that decided"
    assert "on the validation rows by which it was selected" in spec
    assert "diamond" not in json.dumps(history.history_chart(make_run()).to_dict())


def test_the_page_is_named_by_its_folder_and_tells_each_note_once():
    kept = {"step": 400, "alpha": 1.0, "original": 0.886, "new": 0.9, "within": True} | LOST
    told = {"margins": {"original": 0.01}, "met": True, "kept": kept, "tried": [kept], "strength": 2.0}
    said = contract_sentence(told, {"original": "accuracy"})
    run = make_run("kl") | {"contract": told, "notes": ["original: 3 cut", "a note", said]}
    text = " ".join(" ".join(Outline(paged(run, "first")).words).split())
    assert text.count("first: kl") == 2, "title and heading"
    assert text.count("original: 3 cut") == text.count("a note") == text.count(said[1:]) == 1
    assert "kl: kl" not in paged(run, "kl")


def test_a_page_is_written_whole_or_says_why(tmp_path):
    write_page(make_run(), tmp_path / "report.html", "<svg></svg>")
    assert (tmp_path / "report.html").read_text().endswith("</html>\n")
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="cannot write"):
        write_page(make_run(), tmp_path / "file" / "report.html", "<svg></svg>")
    with pytest.raises(MachineError, match="cannot write"):
        drawing.save(drawing.svg(history.history_chart(make_run())), tmp_path / "file" / "history")
