"""Several tasks of the language head: as originals of one run, and one after the other."""

import random

import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.batch import Batch
from fft.tasks import Language, Languages
from tests.helpers.tiny_chat import write_chat, write_jsonl
from tests.helpers.tiny_runs import fft, record, refused

WORDS = ["good", "bad", "cat", "dog", "bird", "road", "tree", "house"]
SHORT = ("--lr", "3e-3", "--epochs", 1, "--batch-size", 16, "--eval-every", 100)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A base that writes nonsense, two texts of different words, and conversations."""
    folder, rng = tmp_path_factory.mktemp("several"), random.Random(0)
    write_chat(folder / "base")
    for name, words in (("prose", WORDS[:4]), ("verse", WORDS[4:])):
        blocks = [" ".join(rng.choices(words, k=rng.choice([5, 8]))) for _ in range(120)]
        (folder / f"{name}.txt").write_text("\n\n".join(blocks))
    pairs = [{"prompt": " ".join(rng.choices(WORDS, k=2)), "completion": f" {rng.choice(WORDS)}"} for _ in range(120)]
    write_jsonl(folder / "pairs.jsonl", pairs)
    return folder


def nats(model, source, tiny):
    answer = fft("eval", "--model", model, "--task", tiny / source, "--held-out", "--json")
    assert answer.code == 0, answer.err
    return answer.json["score"]


def test_every_original_text_has_its_own_budget(tiny):
    flags = ("--original", tiny / "prose.txt", tiny / "verse.txt", "--max-drop", "0.02", "0.5")
    answer = fft(
        "tune", "--model", tiny / "base", "--new", tiny / "pairs.jsonl", *flags, *SHORT, "--out", tiny / "both"
    )
    assert answer.code in (0, 1, 4), answer.err
    told = record(tiny / "both")
    assert told["contract"]["margins"] == {"original": 0.02, "original_2": 0.5}
    for name, source in (("original", "prose.txt"), ("original_2", "verse.txt")):
        assert told["data"][name]["source"].endswith(source)
        assert told[name]["after"] == pytest.approx(nats(tiny / "both", source, tiny), rel=1e-5)


def test_rows_count_for_their_own_task():
    """The drops of a batch by a plain loop over its rows."""
    rng, weight = np.random.default_rng(0), np.array([[1, 1], [1, 0], [0, 0], [1, 1]], np.float32)
    empty = np.zeros((4, 2), np.int32)
    batch = Batch(empty, empty, empty, empty, weight, np.arange(4), np.array([0, 1, 1, 0]), empty)
    values = rng.normal(size=4)
    both = Languages("unembed", tasks=(Language("unembed"), Language("unembed")))
    expected = [values[0] + values[3], values[1]]
    assert both.summed(jnp.asarray(values), batch) == pytest.approx(expected, rel=1e-6)
    scores = rng.uniform(1, 2, size=(4, 2))
    assert both.credit(jnp.asarray(scores), empty, np.array([2, 3, 3, 2])) == pytest.approx(
        -scores[:, 0] / [2, 3, 3, 2], rel=1e-6
    )


def test_a_sequence_of_texts(tiny):
    flags = ("--tasks", tiny / "verse.txt", tiny / "pairs.jsonl", "--original", tiny / "prose.txt", "--method", "kl")
    answer = fft("sequence", "--model", tiny / "base", *flags, *SHORT, "--out", tiny / "seq", "--json")
    assert answer.code in (0, 1, 4), answer.err
    found, sources = answer.json, ("verse.txt", "pairs.jsonl")
    models = (tiny / "base", *(tiny / "seq" / f"stage-{number}" for number in (1, 2)))
    expected = np.array([[nats(model, source, tiny) for source in sources] for model in models])
    assert np.array(found["matrix"]) == pytest.approx(expected, rel=1e-5)
    assert found["backward_transfer"]["value"] == pytest.approx(expected[1, 0] - expected[2, 0], rel=1e-4)
    assert found["forward_transfer"]["value"] == pytest.approx(expected[0, 1] - expected[1, 1], rel=1e-4)
    assert found["average_accuracy"]["value"] == pytest.approx(expected[2].mean(), rel=1e-5)
    assert found["average_accuracy"]["low"] < expected[2].mean() < found["average_accuracy"]["high"]
    assert [task["metric"] for task in found["tasks"]] == ["nats", "nats"] and found["tasks"][0]["head"] == "unembed"
    assert "average score" in answer.err


def test_online_information_over_texts(tiny):
    flags = ("--tasks", tiny / "verse.txt", tiny / "pairs.jsonl", "--method", "ewc", "--gamma", "0.9")
    answer = fft("sequence", "--model", tiny / "base", *flags, *SHORT, "--out", tiny / "online", "--json")
    assert answer.code in (0, 1, 4), answer.err
    assert (tiny / "online" / "fisher" / "1" / "tensors.safetensors").exists()


def test_tasks_without_a_common_unit_are_refused(tiny):
    rows = "".join(f"{word},{at % 2}\n" for at, word in enumerate(WORDS * 5))
    (tiny / "classes.csv").write_text("text,label\n" + rows)
    mixed = ("--original", tiny / "prose.txt", tiny / "classes.csv")
    answer = fft("tune", "--model", tiny / "base", "--new", tiny / "pairs.jsonl", *mixed, "--out", tiny / "no")
    refused(answer, "no common unit")
    answer = fft(
        "sequence", "--model", tiny / "base", "--tasks", tiny / "prose.txt", tiny / "classes.csv", "--out", tiny / "no"
    )
    refused(answer, "all be text, completions or chat")
    assert not (tiny / "no").exists()
