"""--pack: which streams of a run are packed, what refuses it, how epochs are counted, and a run from end to end."""

import dataclasses
import json

import numpy as np
import pytest

import fft
from fft.core.errors import InputError
from fft.data import PackedBatches
from fft.experiment import Data, Experiment, Optim
from fft.methods import KL, Distill, Full, LwF, PromptTuning, Replay
from fft.run.accept import accept
from fft.run.job import assemble
from fft.run.packed import packed_streams
from tests.helpers.tiny_chat import write_chat
from tests.helpers.tiny_checkpoint import write_new

WORDS = ["the", "good", "cat", "runs", "near", "a", "bad", "dog"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("packed"), np.random.default_rng(0)
    write_chat(folder / "base")

    def said(words):
        return " ".join(rng.choice(WORDS, words))

    def write(name, rows):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("new.jsonl", [{"prompt": said(rng.integers(1, 9)), "completion": " " + said(3)} for _ in range(120)])
    write("old.jsonl", [{"text": said(rng.integers(2, 14))} for _ in range(120)])
    write_new(folder / "labels.csv", 60)
    return folder


def experiment(tiny, method, new="new.jsonl", original="old.jsonl", **optim):
    old = () if original is None else (Data(str(tiny / original)),)
    settings = Optim(pack=True, batch_size=2, **optim)
    return Experiment(str(tiny / "base"), Data(str(tiny / new)), old, method, settings, max_length=24)


def test_streams_with_losses_by_token_are_packed(tiny, tmp_path):
    for method, packed in (
        (Full(), {"new"}),
        (Full() + Replay() + LwF(), {"new", "original"}),
        (Full() + KL() + Distill(on="original"), {"new"}),
    ):
        accepted = accept(experiment(tiny, method), tmp_path)
        assert packed_streams(accepted) == dict.fromkeys(packed, 24), method.label


@pytest.mark.parametrize(
    ("method", "data", "message"),
    [
        (Full(), ("labels.csv", None), "--pack: the new task is classification, and only the rows of language tasks"),
        (Distill(on="new"), ("new.jsonl", None), "--pack: distill compares whole rows of the new task"),
        (PromptTuning(), ("new.jsonl", None), "a row holds several packed texts, and virtual tokens .* without --pack"),
        (LwF(), ("new.jsonl", "labels.csv"), "--pack: lwf has one prediction of the head 'original' for each row"),
    ],
)
def test_what_reads_whole_rows_is_refused(tiny, tmp_path, method, data, message):
    heads = () if data[1] is None else ("fit",)
    with pytest.raises(InputError, match=message):
        accept(dataclasses.replace(experiment(tiny, method, *data), original_head=heads), tmp_path)


def test_a_packed_row_counts_as_one(tiny, tmp_path):
    job = assemble(accept(experiment(tiny, Full() + Replay(ratio=0.5), epochs=2.0), tmp_path), tmp_path, lambda: None)
    new = job.batches["new"]
    assert isinstance(new, PackedBatches) and job.steps == len(new.packs) < len(new.encoded.ids) / 1.5
    batch = job.batch(0)
    assert batch["new"].ids.shape == (1, 2, 24) and batch["original"].ids.shape == (1, 1, 24)
    assert batch["new"].segments.max() > 1 and batch["original"].segments.max() > 1
    assert sum("texts packed into" in note for note in job.notes) == 2


def test_a_run_of_packed_rows_learns(tiny, tmp_path):
    data = {"new": str(tiny / "new.jsonl"), "original": str(tiny / "old.jsonl")}
    settings = {"steps": 12, "batch_size": 2, "lr": 1e-2, "pack": True, "max_length": 24}
    run = fft.tune(tiny / "base", **data, method="kl", out=tmp_path / "run", verbose=False, **settings)
    assert run.record["new"]["after"] < run.record["new"]["before"] - 0.3
    assert run.record["experiment"]["optim"]["pack"] is True


def test_the_base_before_step_1_teaches_what_it_teaches_in_every_step(tiny, tmp_path):
    """With all tokens kept, and with the text of several rows in one; `kl` reads originals, `lwf` the new rows."""
    data = {"new": str(tiny / "new.jsonl"), "original": str(tiny / "old.jsonl")}
    settings = {"steps": 6, "batch_size": 2, "lr": 1e-2, "pack": True, "max_length": 24}
    for method in (KL(strength=5.0), LwF(strength=5.0)):
        scores = []
        for likeliest in (0, 10_000, 2):
            out = tmp_path / f"{method.name}-{likeliest}"
            own = dataclasses.replace(method, likeliest=likeliest)
            run = fft.tune(tiny / "base", **data, method=own, out=out, verbose=False, **settings)
            scores.append([run.record[name]["after"] for name in ("new", "original")])
        assert scores[1] == pytest.approx(scores[0], abs=1e-4) and scores[2] != pytest.approx(scores[0], abs=1e-4)
