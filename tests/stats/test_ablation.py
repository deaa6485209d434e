"""The table of an ablation: its rows, the settings that it shows, and the runs that it marks."""

import statistics

import pytest
from rich.console import Console

from fft.commands.compare import show_ablation
from fft.experiment import Data, Experiment, Optim, Retention
from fft.methods import EWC, KL, Full, LoRA
from fft.report.drawing import COLOURS
from fft.report.front import front_points, styles
from fft.report.tables import caption
from fft.stats.ablation import ablation, describe_differences, gained_little

KEPT = Retention(max_drop="0.01")


def run(method, seed, new, original=0.8, kept=3, head="shared", **more):
    """Return the fields of a run.json that tables read."""
    experiment = Experiment("m", Data("n.csv"), (Data("o.csv"),), method, head=head, seed=seed, **more).to_json()
    scores = {
        name: {"metric": "accuracy", "before": before, "after": after, "change": after - before, "low": None}
        | {"high": None, "n": 50}
        for name, before, after in (("original", 0.9, original), ("new", 0.5, new))
    }
    rest = {"heads": {"new": {"kind": "classification", "labels": ["a", "b"]}}, "data": {"new": {"head": "new"}}}
    rest |= {"verdict": None, "parameters": {"percent": 1.0}, "seconds": {"total": 1.0}, "scores": {}}
    rest |= {"contract": {"met": True} if experiment["retention"]["max_drop"] else None, "kept_step": kept, "steps": 8}
    return {"name": f"{method.label}-{seed}", "experiment": experiment, **scores, **rest}


def test_seeds_are_one_row_with_mean_and_standard_deviation():
    runs = [
        run(EWC(strength=strength), seed, 0.7 + strength / 1e4 + seed / 100, kept=seed + 1)
        for strength in (1e2, 1e3)
        for seed in range(3)
    ]
    runs += [run(KL(), 0, 0.9), run(KL(), 0, 0.6, retention=KEPT), run(KL(), 1, 0.8, retention=KEPT)]
    weak, strong, kl, kept = ablation(runs)
    assert (weak.method, weak.settings, weak.seeds, weak.kept) == ("ewc", "strength 100", 3, (1, 2, 3))
    assert strong.settings == "strength 1000"
    assert strong.new == pytest.approx((0.81, statistics.stdev([0.80, 0.81, 0.82])))
    assert (kl.method, kl.seeds, kl.new) == ("kl", 1, (0.9, None)) and "strength" not in kl.settings
    assert (kept.method, kept.settings, kept.seeds) == ("contract (kl)", "max-drop 0.01", 2)
    assert kept.forgotten == pytest.approx((0.1, 0.0))


def test_only_differing_settings_are_described():
    runs = [run(LoRA(rank=4) + EWC(), 0, 0.7), run(LoRA(rank=8) + EWC(), 1, 0.7), run(Full(), 0, 0.7)]
    assert describe_differences(runs) == ["rank 4", "rank 8", ""]
    tried = ((1e-4, 16), (3e-4, 16), (1e-4, 32))
    runs = [run(Full(), 0, 0.7, optim=Optim(lr=lr, batch_size=size)) for lr, size in tried]
    assert describe_differences(runs) == [
        "lr 0.0001, batch-size 16",
        "lr 0.0003, batch-size 16",
        "lr 0.0001, batch-size 32",
    ]


def test_a_run_that_gained_little_beside_a_full_one_is_marked():
    runs = [run(Full(), 0, 0.9), run(Full(), 1, 0.55), run(LoRA(), 0, 0.6), run(KL(), 0, 0.62)]
    assert gained_little(runs) == ["lora-0"] and "gained less than half of what full did: lora-0" in caption(runs)
    assert gained_little(runs[2:]) == [] and "gained less" not in caption(runs[2:])
    fresh = [run(Full(), 0, 0.9, head="new"), run(LoRA(), 0, 0.64, head="new"), run(KL(), 0, 0.71, head="new")]
    for record in fresh:
        record["new"] |= {"before": None, "change": None}
    assert gained_little(fresh) == ["lora-0"], "the gain is over guessing between two labels"


def test_the_table_is_printed_and_written(tmp_path):
    runs = [run(Full(), seed, 0.7 + seed / 10, kept=5 + seed) for seed in (0, 1)]
    console = Console(record=True, width=120)
    (row,) = show_ablation(runs, console, tmp_path / "cmp")
    assert row["method"] == "full" and "5, 6 of 8" in console.export_text()
    written = (tmp_path / "cmp-table.md").read_text()
    assert "| full | – | 2 | 0.800 ±0.000 | +0.100 ±0.000 | 0.750 ±0.071 | 5, 6 of 8 |" in written


def test_runs_of_one_method_share_a_colour_and_no_two_methods_do():
    runs = [run(method, seed, 0.7) for method in (Full(), LoRA(), KL()) for seed in range(4)]
    base, *looks = styles(front_points(runs))
    assert [colour for colour, _ in looks] == [COLOURS[at // 4] for at in range(12)]
    assert len({base, *looks}) == 13
    many = [run(Full(), seed, 0.7) for seed in range(9)]
    assert len(set(styles(front_points(many)))) == 10
