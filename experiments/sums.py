"""A chat model learns sums while English prose is held: SmolLM2-135M-Instruct, on a CPU.

    python -m experiments.sums --out runs/sums   runs what is missing, safe to kill and repeat, and writes
                                                 experiments/results/sums.json, sums.md and sums.svg

The new task: sums of two numbers up to two digits as questions in the chat template, with the number as the answer,
scored by the last number that the model writes (number_match). The original task: topics of Python's documentation
(pydoc), English prose with some code, in nats a token; a topic is a document, and half of them are for training, a
quarter each for validation and test. Full fine-tuning at three rates, LoRA on all linear layers, and `kl` under
`--max-drop 0.02`: equally many steps of 512 packed tokens, the last step, one seed. A method has to be better than full
fine-tuning at a lower rate. Test rows are scored once, before and after.
"""

import json
import pydoc_data.topics
import random
from pathlib import Path

import tyro

from experiments.article import LAST, RESULTS
from experiments.cached import FIELDS, cached_runs
from fft.api import generate
from fft.core.naming import UNEMBED
from fft.disk.files import replace_file
from fft.experiment import Data, Experiment, Optim, Retention
from fft.methods import KL, Full, LoRA, Method
from fft.report.front import front_of_runs
from fft.stats.intervals import Change

MODEL, LENGTH, STEPS, RATE, MAX_DROP = "demo:smollm2", 512, 40, 5e-5, "0.02"
ROWS, NUMBERS = 3000, 100
ROLES = {"train": 0.5, "validation": 0.75, "test": 1.0}
"""splits of the topics: the share of them that ends each"""
ASKED = ["What is 49 + 97?", "What is 8 + 5?", "What is 63 + 28?", "What is the capital of France?", "Who are you?"]


def write_data(folder: Path) -> tuple[Data, Data]:
    """Write the sums and the prose; return the data of the new and of the original task."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    pairs = rng.sample([(a, b) for a in range(NUMBERS) for b in range(NUMBERS)], ROWS)
    sums = [{"messages": [{"role": "user", "content": f"What is {a} + {b}?"}], "answer": str(a + b)} for a, b in pairs]
    _write(folder / "sums.jsonl", sums)
    topics = [text for _, text in sorted(pydoc_data.topics.topics.items())]
    rng.shuffle(topics)
    begin = 0
    for role, share in ROLES.items():
        end = round(share * len(topics))
        _write(folder / f"prose-{role}.jsonl", [{"text": text} for text in topics[begin:end]])
        begin = end
    prose = {role: str(folder / f"prose-{role}.jsonl") for role in ROLES}
    new = Data(str(folder / "sums.jsonl"), kind="answer", metric="number_match", max_new=24)
    return new, Data(prose["train"], prose["validation"], prose["test"], kind="text")


def _write(path: Path, rows: list[dict]) -> None:
    replace_file(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def experiments(new: Data, prose: Data) -> dict[str, Experiment]:
    """Return the experiments by name."""
    watched = {"eval_every": STEPS // 2, "probe": 64}
    last = Retention(keep=LAST.keep, **watched)
    runs: dict[str, tuple[Method, float | None, Retention]] = {
        "full": (Full(), RATE, last),
        "full, a third of the rate": (Full(), RATE / 3, last),
        "full, a tenth of the rate": (Full(), RATE / 10, last),
        "lora": (LoRA(targets="all-linear"), None, last),
        "contract (kl)": (KL(), RATE, Retention(max_drop=MAX_DROP, **watched)),
    }
    return {
        name: Experiment(
            MODEL,
            new,
            prose,
            method,
            Optim(lr=rate, steps=STEPS, batch_size=1, pack=True),
            retention,
            max_length=LENGTH,
        )
        for name, (method, rate, retention) in runs.items()
    }


def with_answers(experiment: Experiment, folder: Path, record: dict) -> dict:
    """Return the record with the model's answers to ASKED."""
    return record | {"answers": generate(folder, ASKED, chat=True, max_new=24).texts}


def markdown(records: dict[str, dict], before: list[str]) -> str:
    """Return the table of scores and the answers; `before` are the base's."""
    hours = sum(record["seconds"]["total"] for record in records.values()) / 3600
    lines = [
        "# Sums learned, prose held",
        "",
        f"SmolLM2-135M-Instruct, {STEPS} steps of {LENGTH} packed tokens, AdamW, float32, one seed, "
        f"in {hours:.1f} hours on two CPU cores. Right sums of the test rows, and nats a token of English prose on the "
        "test topics, with paired 95 % intervals of the change. By `python -m experiments.sums`.",
        "",
        "| run | rate | right sums | change | prose, nats | rise |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, record in records.items():
        new, original = Change(**record["new"]), Change(**record["original"])
        if name == next(iter(records)):
            lines.append(f"| base | | {new.before:.3f} | | {original.before:.4f} | |")
        lines.append(
            f"| {name} | {record['experiment']['optim']['lr']:.1e} | {new.after:.3f} | "
            f"{new.change:+.3f} ({new.low:+.3f} to {new.high:+.3f}) | {original.after:.4f} | "
            f"{-original.change:+.4f} ({-original.high:+.4f} to {-original.low:+.4f}) |"
        )
    runs = {"base": before} | {name: record["answers"] for name, record in records.items()}
    lines += [
        "",
        "Answers, greedy, at most 24 tokens:",
        "",
        f"| | {' | '.join(ASKED)} |",
        "|---" * (len(ASKED) + 1) + "|",
    ]
    lines += [f"| {name} | {' | '.join(_cell(answer) for answer in answers)} |" for name, answers in runs.items()]
    return "\n".join(lines) + "\n"


def _cell(answer: str) -> str:
    return " ".join(answer.replace("|", "\\|").split())


def main(out: Path = Path("runs/sums")) -> None:
    """Run what experiments/results/sums.json lacks; update the table and the picture after every run."""
    before = generate(MODEL, ASKED, chat=True, max_new=24).texts
    results = RESULTS / "sums.json"
    of_all = experiments(*write_data(out / "data"))
    for records in cached_runs(of_all, out, results, with_answers, (*FIELDS, "answers", "notes")):
        replace_file(RESULTS / "sums.md", markdown(records, before).encode())
        heads = {"data": {"new": {"head": UNEMBED}}}  # which the stored records leave out
        runs = [record | heads | {"name": name} for name, record in records.items()]
        front_of_runs(runs, RESULTS / "sums")


if __name__ == "__main__":
    tyro.cli(main)
