"""Supervised fine-tuning of SmolLM2-135M against TRL's SFTTrainer, in supervised tokens a second.

    python -m experiments.benchmarks.sft [--rounds 7] [--threads 2] [--only completions whole]

The texts are paragraphs of Python's documentation (pydoc), each with the token that ends a text. In `whole` all tokens
are supervised but the first of a paragraph, which nothing predicts; in `completions` the last quarter of a paragraph's
words is the completion, which alone is supervised, and the rest the prompt. Both sides begin with the same weights and
train on the same tokens with the same ones supervised, which the program asserts: all of them once in STEPS optimizer
steps of one row of T = 512 packed tokens. Full fine-tuning, float32, AdamW with decay on matrices and clip 1.

TRL runs with `SFTConfig(packing=True, use_cpu=True, bf16=False, gradient_checkpointing=False)` and its defaults: it
packs by best-fit decreasing, as `fft` does, joins the rows of a batch into one without padding, and takes torch's fused
AdamW. Its collator gives no mask but positions that begin anew with every text, of which transformers' sdpa attention
makes the mask: texts do not see each other on either side. The loss of the first batch of `fft`, before any update, is
printed for both and has to agree within 1e-4; it would not if texts saw each other.

What differs: TRL's row includes the last token of a text, which is only a target, so that a text takes one token more;
without a GPU its language head computes the logits of all tokens, those without a target as well, and their entropy and
accuracy, which it reports.

The two alternate in one process. In a round a side takes an uncounted step and then STEPS counted ones. Of TRL these
are steps of `trainer.train()`, from the end of the first step to the end of the last, with its batches made in between,
without logging, saving and what precedes the first step; of `fft` they are the compiled train step with its batches
made in between. A figure is the median over rounds of (supervised tokens a second of `fft`) / (of TRL): above 1 means
that `fft` is faster. Figures of a busy machine are too high, because torch's threads wait for each other, see
experiments.benchmarks.decoder_step. TRL is in the extra `test`.
"""

import gc
import json
import pydoc_data.topics
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.smollm2 import use_threads
from experiments.benchmarks.step import LR, THREADS, in_turn, paired_ratio, step_from
from fft import models
from fft.core.allocator import keep_freed_memory, run_programs_in_turn
from fft.data import Encoded, PackedBatches, load_tokenizer
from fft.data.kinds import KINDS
from fft.data.packing import packs
from fft.data.rows import Rows
from fft.data.tokenize import EncodeOptions, Tokenizer
from fft.methods import Full
from fft.tasks import Language

if TYPE_CHECKING:
    import trl

MODEL, T, STEPS = "demo:smollm2", 512, 4
FEWEST_WORDS, MOST_WORDS, COMPLETED = 40, 200, 0.25
"""the fewest and the most words of a paragraph, and the share of them that is its completion"""
IGNORED = -100
"""TRL's label of a token that is not supervised"""
TOLERANCE = 1e-4
"""the most by which the two losses of a batch may differ, in nats"""
Part = Literal["completions", "whole"]
KIND: dict[Part, str] = {"completions": "completion", "whole": "text"}


def texts(part: Part) -> list[dict[str, str]]:
    """Return paragraphs in a seeded order, as rows with TRL's columns: `prompt` and `completion`, or `text`."""
    topics = sorted(pydoc_data.topics.topics.items())
    paragraphs = [paragraph.split() for _, topic in topics for paragraph in topic.split("\n\n")]
    chosen = [words for words in paragraphs if FEWEST_WORDS <= len(words) <= MOST_WORDS]
    random.Random(0).shuffle(chosen)
    if part == "whole":
        return [{"text": " ".join(words)} for words in chosen]
    cuts = [len(words) - int(COMPLETED * len(words)) for words in chosen]
    return [
        {"prompt": " ".join(words[:cut]), "completion": " " + " ".join(words[cut:])}
        for words, cut in zip(chosen, cuts, strict=True)
    ]


def encode(part: Part, rows: list[dict[str, str]], tokenizer: Tokenizer) -> Encoded:
    """Return the rows as `fft` encodes them."""
    first, *second = (list(column) for column in zip(*(row.values() for row in rows), strict=True))
    read = Rows(first, second[0] if second else None, [0] * len(rows), list(range(1, len(rows) + 1)), "pydoc")
    options = EncodeOptions(T, len(tokenizer.vocabulary), T)
    return KINDS[KIND[part]].encode(Language(), read, tokenizer, options).encoded


def data(part: Part, tokenizer: Tokenizer) -> tuple[list[dict[str, str]], Encoded]:
    """Return rows that fill STEPS packs of T tokens, as texts and as `fft` encodes them."""
    rows = texts(part)
    encoded = encode(part, rows, tokenizer)
    sizes, chosen = encoded.lengths() + 1, []
    for at in range(len(rows)):
        if len(packs(sizes[[*chosen, at]], T)) <= STEPS:
            chosen.append(at)
    return [rows[at] for at in chosen], encoded.take(np.array(chosen))


def supervised(encoded: Encoded) -> tuple[int, int]:
    """Return the numbers of supervised tokens and of all tokens, those that end the texts included."""
    counts = encoded.target_counts()
    assert counts is not None  # the rows of a language task have targets
    return int(counts.sum()), int((encoded.lengths() + 1).sum())


def our_rows(encoded: Encoded) -> Counter[tuple]:
    """Return how often each text occurs: its ids and its labels, as TRL has them."""
    assert encoded.targets is not None
    return Counter(their_row(*row) for row in zip(encoded.ids, encoded.targets, strict=True))


def their_row(ids: np.ndarray, targets: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids and the labels [n + 1] of a text that `fft` has as ids [n] and targets [n]."""
    labels = np.where(targets < 0, IGNORED, targets)
    return (*ids.tolist(), int(targets[-1])), (IGNORED, *labels.tolist())


def packed_rows(packed: Iterable[dict[str, list[int]]]) -> Counter[tuple]:
    """Return how often each text occurs in rows that TRL has packed; the collator ignores the first label of each."""
    found: Counter[tuple] = Counter()
    for row in packed:
        start = 0
        for length in row["seq_lengths"]:
            ids, labels = (tuple(row[name][start : start + length]) for name in ("input_ids", "labels"))
            found[ids, (IGNORED, *labels[1:])] += 1
            start += length
    return found


def make_trainer(rows: list[dict[str, str]], out: str) -> "trl.SFTTrainer":
    """Return TRL's trainer of the model on these rows, whose `train` takes one step more than STEPS."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    folder = models.find_folder(MODEL)
    settings = SFTConfig(
        out,
        packing=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_length=T,
        per_device_train_batch_size=1,
        max_steps=STEPS + 1,
        train_sampling_strategy="sequential",
        learning_rate=LR,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        max_grad_norm=1.0,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa"),
        settings,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def their_round(trainer: "trl.SFTTrainer") -> Callable[[], float]:
    """Return a function that trains for a round and returns the seconds per counted step."""
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            ends.append(time.perf_counter())

    trainer.add_callback(Clock())

    def train() -> float:
        ends.clear()
        trainer.train()
        assert len(ends) == STEPS + 1
        return (ends[-1] - ends[0]) / STEPS

    return train


def their_loss(trainer: "trl.SFTTrainer", batch: list[tuple]) -> float:
    """Return the loss of a packed row of texts, each with its ids and labels, at the trainer's weights."""
    ids, labels = ([value for text in batch for value in text[field]] for field in (0, 1))
    row = {"input_ids": ids, "labels": labels, "seq_lengths": [len(text[0]) for text in batch]}
    with torch.no_grad():
        return trainer.compute_loss(trainer.model, trainer.data_collator([row])).item()


def our_round(encoded: Encoded, pad_id: int) -> tuple[Callable[[], float], float, list[tuple]]:
    """Return a function that trains for a round and returns the seconds per counted step; the loss of the first batch,
    at the base's weights; and the texts of this batch, as TRL has them.
    """
    batches = PackedBatches(encoded, 1, 0, T, pad_id)
    assert len(batches) == STEPS and encoded.targets is not None
    checkpoint = models.load(MODEL, language=True)
    step = step_from(checkpoint.model, checkpoint.params, Language(), Full())
    first = [their_row(encoded.ids[at], encoded.targets[at]) for at in batches.rows(0)]
    loss = step(batches.batch(0))

    def train() -> float:
        step(batches.batch(0))
        start = time.perf_counter()
        for at in range(1, STEPS + 1):
            step(batches.batch(at % STEPS))
        return (time.perf_counter() - start) / STEPS

    return train, loss, first


def measure(part: Part, table: Table, rounds: int) -> dict[str, float]:
    """Measure both sides on a part's data, add their rows to the table, and return the figures."""
    tokenizer = load_tokenizer(models.find_folder(MODEL))
    rows, encoded = data(part, tokenizer)
    counted, tokens = supervised(encoded)
    ours, loss, first = our_round(encoded, tokenizer.pad_id)
    with tempfile.TemporaryDirectory() as out:
        trainer = make_trainer(rows, out)
        assert packed_rows(trainer.train_dataset) == our_rows(encoded), "both sides train on the same tokens"
        assert len(trainer.train_dataset) == STEPS
        trl_loss = their_loss(trainer, first)
        assert abs(loss - trl_loss) < TOLERANCE, f"losses of the same batch: {loss} and {trl_loss} of TRL"
        seconds = in_turn({"fft": ours, "TRL": their_round(trainer)}, rounds)
    speed = {name: [counted / STEPS / time for time in times] for name, times in seconds.items()}
    ratio, quartiles = paired_ratio(speed["fft"], speed["TRL"])
    for name, rates in speed.items():
        median, spread = f"{statistics.median(rates):.1f}", f"{min(rates):.1f}-{max(rates):.1f}"
        first_loss = f"{loss if name == 'fft' else trl_loss:.5f}"
        relative = f"{ratio:.3f} {quartiles}" if name == "fft" else ""
        table.add_row(part, f"{counted / tokens:.3f}", name, median, spread, relative, first_loss)
    return {
        f"trl_{part}": ratio,
        f"{part}_supervised": counted / tokens,
        f"{part}_tokens_per_second": statistics.median(speed["fft"]),
        f"{part}_trl_tokens_per_second": statistics.median(speed["TRL"]),
        f"{part}_loss": loss,
        f"{part}_trl_loss": trl_loss,
    }


def main(rounds: int = 7, threads: int = THREADS, only: tuple[Part, ...] = tuple(KIND)) -> None:
    """Measure the parts, print the table and, last, the figures as JSON."""
    keep_freed_memory()
    run_programs_in_turn()
    use_threads(threads)
    title = f"SmolLM2-135M, rows of {T} packed tokens, {STEPS} steps a round, {threads} threads"
    columns = ("data", "supervised", "side", "tokens/s", "min-max", "of TRL (quartiles)", "first loss")
    table = Table(*columns, title=title)
    figures: dict[str, float] = {}
    for part in only:
        figures |= measure(part, table, rounds)
        gc.collect()
    Console(width=110).print(table)
    print(json.dumps({**figures, "threads": threads}))


if __name__ == "__main__":
    tyro.cli(main)
