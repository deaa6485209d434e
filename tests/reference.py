"""Whether a change of the code changed any number: a fixed set of commands, and the comparison of what they left.

    python -m tests.reference record FOLDER [--only TEXT]    run what FOLDER does not hold yet, safe to kill and repeat
    python -m tests.reference compare BEFORE AFTER           one row a case: equal to the last bit, or the largest
                                                             difference and where it is; exit code 1 where any differs

The cases: every method and four chains for six steps, a contract, a run that is killed and resumed, every estimator of
the Fisher information in both ways, check, repair, diagnose, merge, sequence, compare, export to Hugging Face and PEFT
files; on a tiny BERT, and the methods, the Fisher and check on MiniLM with a classifier of seeded noise. Tensors are
compared bit by bit, JSON value by value but for clocks, versions and folders.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file, save_file
from tyro.conf import Positional

from fft.commands.cli import main as fft
from fft.data.demo import minilm_folder
from fft.methods import METHODS
from tests.helpers import tiny_checkpoint

CHAINS = ("lora+ewc", "freeze+layerwise+ewc", "lora+kl+replay", "full+si+l2sp")
SHORT = ("--steps", "6", "--batch-size", "8", "--eval-every", "3", "--lr", "1e-3", "--max-length", "16")
EXTRA = {
    "pseudo": ("--unlabelled", "{data}/texts.txt", "--pseudo.filler", "{base}-filler"),
}
IGNORED = frozenset(
    {
        *("seconds", "total_seconds", "git", "versions", "device", "time", "directory", "folder", "out", "model"),
        *("examples_per_second", "environment", "experiment_hash", "provenance_sha256", "source", "base", "tuned"),
    }
)
"""names in JSON whose values tell when, where and on what a command ran, or are hashes of such"""
TENSORS, TEXTS = (".safetensors",), (".json", ".jsonl")


class Case(NamedTuple):
    """Commands that run one after the other; `{out}` is the case's folder, `{base}` a model's, `{data}` the rows'."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    killed: bool = False
    """whether the first is killed once before it is done"""


def tuned(method: str, *flags: str, out: str = "{out}/run") -> tuple[str, ...]:
    """`fft tune` of six steps."""
    data = ("--new", "{data}/new.csv", "--original", "{data}/original.csv")
    extra = tuple(flag for name in method.split("+") for flag in EXTRA.get(name, ()))
    return ("tune", "--model", "{base}", *data, "--method", method, *SHORT, *extra, *flags, "--out", out)


def cases() -> Iterator[Case]:
    """Every case of the tiny model, then those of MiniLM."""
    for name in (*METHODS, *CHAINS):
        if name != "pseudo":  # its tokenizer has no mask token
            yield Case(f"tiny/{name}", (tuned(name),))
    yield Case("tiny/accumulate, cosine, keep latest", (tuned("full", "--accumulate", "2", "--schedule", "cosine"),))
    yield Case("tiny/contract", (tuned("kl", "--max-drop", "0.05"),))
    yield Case("tiny/contract, full", (tuned("full", "--max-drop", "0.05"),))
    yield Case("tiny/several originals", (tuned("ewc+kl", "--original", "{data}/original.csv", "{data}/other.csv"),))
    yield Case("tiny/killed", (tuned("lora+ewc"),), killed=True)
    yield from fisher_cases("tiny")
    original, new = ("--original", "{data}/original.csv"), ("--new", "{data}/new.csv")
    shared = tuned("full", "--head", "shared", "--new", "{data}/opposite.csv", "--keep", "latest")
    pair = ("{base}", "{out}/run")
    yield Case("tiny/check", (shared, ("check", *pair, *original, "--out", "{out}/check")))
    yield Case("tiny/eval", (shared, ("eval", "--model", "{out}/run", "--task", "{data}/opposite.csv", "--held-out")))
    yield Case(
        "tiny/repair",
        (
            tuned("full"),
            ("repair", *pair, *original, *new, *("--also", "layers", "ties", "dare"), "--out", "{out}/repair"),
        ),
    )
    yield Case("tiny/diagnose", (shared, ("diagnose", *pair, *original, "--out", "{out}/diagnose")))
    both = tuned("full", out="{out}/a"), tuned("full", "--seed", "1", out="{out}/b")
    for how in ("interpolate", "soup", "arithmetic", "ties", "dare"):
        models = ("{out}/a",) if how == "interpolate" else ("{out}/a", "{out}/b")
        yield Case(f"tiny/merge {how}", (*both, ("merge", "{base}", *models, "--how", how, "--out", "{out}/merged")))
    yield Case("tiny/compare", (*both, ("compare", "{out}/a", "{out}/b", "--out", "{out}/front")))
    sequence = ("sequence", "--model", "{base}", "--tasks", "{data}/new.csv", "{data}/opposite.csv", *SHORT)
    yield Case("tiny/sequence", ((*sequence, *original, "--method", "ewc", "--out", "{out}/sequence"),))
    yield Case(
        "tiny/sequence, gamma",
        ((*sequence, *original, "--method", "ewc", "--gamma", "0.9", "--out", "{out}/sequence"),),
    )
    exported = ("export", "{out}/run", "--out")
    yield Case("tiny/export hf", (tuned("lora"), (*exported, "{out}/hf", "--to", "hf")))
    for name in ("lora", "dora", "ia3", "prompt", "prefix", "norm"):
        yield Case(f"tiny/export peft {name}", (tuned(name), (*exported, "{out}/peft", "--to", "peft")))
    for name in (*METHODS, *CHAINS):
        yield Case(f"minilm/{name}", (tuned(name),))
    yield from fisher_cases("minilm")
    yield Case("minilm/check", (tuned("full"), ("check", *pair, *original, "--out", "{out}/check")))


def fisher_cases(base: str) -> Iterator[Case]:
    """`fft fisher` by every estimator, in both ways where there are two."""
    command = ("fisher", "--model", "{base}", "--original", "{data}/original.csv", "--samples", "32", "--max-length")
    for estimator in ("exact", "mc", "empirical", "gnb", "batched"):
        for way in ("fused", "vmapped") if estimator in ("exact", "mc", "empirical") else ("fused",):
            flags = ("16", "--estimator", estimator, "--way", way, "--out", "{out}/fisher")
            yield Case(f"{base}/fisher {estimator} {way}", ((*command, *flags),))


def write_inputs(folder: Path) -> None:
    """The models and rows that all cases read, seeded."""
    if (folder / "done").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    tiny_checkpoint.write_checkpoint(folder / "tiny")
    tiny_checkpoint.write_original(folder / "original.csv")
    tiny_checkpoint.write_original(folder / "other.csv", seed=11)
    tiny_checkpoint.write_new(folder / "new.csv", filler=(2, 5))
    tiny_checkpoint.write_opposite(folder / "opposite.csv")
    (folder / "texts.txt").write_text("\n".join(text for text, _, _ in tiny_checkpoint.sentences(64, 7)))
    shutil.copytree(minilm_folder(), folder / "minilm")
    rng = np.random.default_rng(0)
    for name in ("tiny", "minilm"):
        _with_heads(folder / name, folder / f"{name}-filler", rng)
    (folder / "done").touch()


def _with_heads(folder: Path, filler: Path, rng: np.random.Generator) -> None:
    """Give a model without a classifier one of noise, and write its masked-language sibling, of noise too."""
    config = json.loads((folder / "config.json").read_text())
    held = {name.removeprefix("bert."): value for name, value in load_file(folder / "model.safetensors").items()}
    width, words = config["hidden_size"], config["vocab_size"]

    def noise(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.05, shape).astype(np.float32)

    body = {f"bert.{name}": value for name, value in held.items() if not name.startswith("classifier")}
    head = {name: value for name, value in held.items() if name.startswith("classifier")}
    head = head or {"classifier.weight": noise(2, width), "classifier.bias": noise(2)}
    language = {
        "cls.predictions.bias": noise(words),
        "cls.predictions.transform.dense.weight": noise(width, width),
        "cls.predictions.transform.dense.bias": noise(width),
        "cls.predictions.transform.LayerNorm.weight": np.ones(width, np.float32),
        "cls.predictions.transform.LayerNorm.bias": noise(width),
    }
    shutil.copytree(folder, filler)
    labels = {"id2label": {"0": "negative", "1": "positive"}, "label2id": {"negative": 0, "positive": 1}}
    for place, tensors, kind, more in (
        (folder, body | head, "BertForSequenceClassification", labels),
        (filler, body | language, "BertForMaskedLM", {}),
    ):
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
        written = {name: value for name, value in config.items() if name not in labels} | more
        (place / "config.json").write_text(json.dumps(written | {"architectures": [kind]}))


def run_case(case: Case, folder: Path, inputs: Path) -> list[int]:
    """Run the commands of a case into its folder and return their exit codes; where all went well, `done` is there."""
    places = {"out": str(folder), "data": str(inputs), "base": str(inputs / case.name.split("/")[0])}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    codes = []
    for at, command in enumerate(case.commands):
        argv = [word.format(**places) for word in command]
        if case.killed and at == 0:
            _killed(argv, folder / "run")
        codes.append(fft(argv))
    if {0, 1, 4}.issuperset(codes):
        (folder / "codes.json").write_text(json.dumps(codes))
        (folder / "done").touch()
    return codes


def _killed(argv: list[str], run: Path) -> None:
    """Run a command in a process of its own and kill it once it has trained a step."""
    process = subprocess.Popen([sys.executable, "-m", "fft", *argv], stdout=subprocess.DEVNULL)
    told = run / "metrics.jsonl"
    while process.poll() is None and not (told.exists() and '"event": "step"' in told.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def differences(before: Path, after: Path) -> Iterator[tuple[str, float | None]]:
    """(place, how much a value differs there, None where that is no number, 0 where it is equal) of two folders."""
    names = [
        {str(p.relative_to(root)) for p in root.rglob("*") if p.suffix in (*TENSORS, *TEXTS) and _is_compared(p)}
        for root in (before, after)
    ]
    for name in sorted(names[0] ^ names[1]):
        yield f"{name} is in one alone", None
    for name in sorted(names[0] & names[1]):
        read = _tensors if name.endswith(TENSORS) else _values
        one, other = read(before / name), read(after / name)
        for place in sorted(one.keys() ^ other.keys()):
            yield f"{name}: {place} is in one alone", None
        for place in one.keys() & other.keys():
            yield f"{name}: {place}", _difference(one[place], other[place])


def _is_compared(path: Path) -> bool:
    return "checkpoints" not in path.parts or path.name == "manifest.json"


def _tensors(path: Path) -> dict[str, Any]:
    return load_file(path)


def _values(path: Path) -> dict[str, Any]:
    """{place: value} of the leaves of a JSON file, or of each line of one, but for IGNORED."""

    def leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict | list):
            for name, item in value.items() if isinstance(value, dict) else enumerate(value):
                if name not in IGNORED:
                    yield from leaves(item, f"{place}/{name}")
        elif not (isinstance(value, str) and "/" in value):  # a folder
            yield place, value

    text = path.read_text(encoding="utf-8")
    whole = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
    return dict(leaves(whole["arrays"] if path.name == "manifest.json" else whole, ""))


def _difference(one: Any, other: Any) -> float | None:
    if isinstance(one, np.ndarray):
        if one.dtype != other.dtype or one.shape != other.shape:
            return None
        if one.tobytes() == other.tobytes():
            return 0.0
        return float(np.max(np.abs(one.astype(np.float64) - other.astype(np.float64)), initial=0.0)) or None
    if type(one) is type(other) and (one == other or (one != one and other != other)):
        return 0.0
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return abs(one - other) if numbers else None


def record(folder: Positional[Path], only: str = "") -> None:
    """Run the cases whose name contains `only` and that FOLDER does not hold."""
    folder = folder.resolve()
    write_inputs(folder / "inputs")
    for case in cases():
        if only in case.name and not (folder / case.name / "done").exists():
            start = time.monotonic()
            codes = run_case(case, folder / case.name, folder / "inputs")
            print(f"{case.name}: exit codes {codes}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
            jax.clear_caches()  # the programs of a hundred cases would fill the memory


def compare(before: Positional[Path], after: Positional[Path], only: str = "") -> int:
    """Print the table of the cases whose name contains `only`; 1 where anything differs or is missing."""
    table, code = Table("case", "values", "differ", "largest difference", "where"), 0
    for case in cases():
        if only not in case.name:
            continue
        if not all((folder / case.name / "done").exists() for folder in (before, after)):
            table.add_row(case.name, "-", "-", "-", "not recorded in both")
            code = 1
            continue
        found = list(differences(before / case.name, after / case.name))
        differ = [(place, value) for place, value in found if value != 0]
        code |= bool(differ)
        place, value = max(differ, key=lambda item: np.inf if item[1] is None else item[1], default=("", 0.0))
        size = "equal" if not differ else "other" if value is None else f"{value:.2g}"
        table.add_row(case.name, f"{len(found):,}", str(len(differ)), size, place)
    Console(width=160).print(table)
    return code


if __name__ == "__main__":
    sys.exit(tyro.extras.subcommand_cli_from_dict({"record": record, "compare": compare}))
