"""Language tasks through the whole product: a contract run, its scores against torch, and what is done afterwards."""

import json
import random

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import fft as package
from fft.stats.records import plain
from tests.helpers.tiny_chat import write_chat, write_jsonl
from tests.helpers.tiny_checkpoint import write_checkpoint
from tests.helpers.tiny_runs import fft, refused

WORDS = ["good", "bad", "cat", "dog", "bird", "road", "tree", "house", "runs", "sees", "near", "under"]
LONG = 8


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A base that writes nonsense, conversations in which the last word is said twice, and prose."""
    folder, rng = tmp_path_factory.mktemp("language"), random.Random(0)
    write_chat(folder / "base")
    rows = [[rng.choice(WORDS) for _ in range(3)] for _ in range(160)]
    asked = [{"role": "user", "content": " ".join(words)} for words in rows]
    answers = [{"role": "assistant", "content": f"{words[-1]} {words[-1]}"} for words in rows]
    write_jsonl(folder / "chat.jsonl", [{"messages": list(pair)} for pair in zip(asked, answers, strict=True)])
    prose = [" ".join(rng.choice(WORDS) for _ in range(rng.choice([6, LONG]))) for _ in range(160)]
    (folder / "prose.txt").write_text("\n\n".join(prose))
    pairs = [{"prompt": " ".join(words[:2]), "completion": f" {words[2]}"} for words in rows[:40]]
    write_jsonl(folder / "pairs.jsonl", pairs)
    return folder


@pytest.fixture(scope="module")
def kept(tiny):
    data = {"new": str(tiny / "chat.jsonl"), "original": str(tiny / "prose.txt")}
    settings = {"epochs": 3, "lr": 1e-2, "max_drop": "0.05", "eval_every": 5, "verbose": False}
    return tiny / "kept", package.tune(tiny / "base", **data, out=tiny / "kept", **settings).record


def test_a_contract_in_nats_is_kept_and_the_answers_are_learnt(kept):
    _, record = kept
    assert record["contract"]["met"] and record["contract"]["max_drop"] == "0.05"
    assert record["original"]["metric"] == record["new"]["metric"] == "nats"
    assert record["new"]["after"] < record["new"]["before"] - 0.5, "fewer nats a token are better"
    assert record["new"]["change"] > 0.5 and record["experiment"]["new"]["kind"] == "chat"
    assert record["experiment"]["original"]["kind"] == "text" and record["name"] == "kl"
    assert any("supervised tokens in ⟦ ⟧" in note for note in record["notes"])


def torch_nll(network, prompt, rest):
    """The sum of the nll of `rest` behind `prompt`, lists of ids, in nats."""
    ids = torch.tensor([prompt + rest])
    with torch.no_grad():
        logp = torch.log_softmax(network(ids).logits[0].double(), dim=-1)
    return -sum(logp[at - 1, ids[0, at]].item() for at in range(max(1, len(prompt)), ids.shape[1]))


def expected_rows(tokenizer, source):
    """(prompt, supervised ids) of every row of a file."""
    text = source.read_text()
    if source.suffix == ".txt":
        for block in text.split("\n\n"):
            ids = tokenizer(block)["input_ids"]
            yield ids[:1], ids[1:]
        return
    for row in map(json.loads, text.splitlines()):
        if "prompt" in row:
            completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
            yield tokenizer(row["prompt"])["input_ids"], [*completion, tokenizer.eos_token_id]
        else:
            prompt = tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True)["input_ids"]
            yield prompt, tokenizer.apply_chat_template(row["messages"])["input_ids"][len(prompt) :]


@pytest.mark.parametrize("name", ["chat.jsonl", "prose.txt", "pairs.jsonl"])
def test_eval_gives_the_sums_of_transformers(tiny, kept, tmp_path, name):
    folder, _ = kept
    answer = fft("eval", "--model", folder, "--task", tiny / name, "--predictions", tmp_path / "p.jsonl", "--json")
    assert answer.code == 0 and answer.json["metric"] == "nats" and answer.json["head"] == "unembed"
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    network = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    rows = list(expected_rows(tokenizer, tiny / name))
    assert [line["row"] for line in lines] == list(range(1, len(rows) + 1))
    assert [line["tokens"] for line in lines] == [len(rest) for _, rest in rows]
    for line, (prompt, rest) in list(zip(lines, rows, strict=True))[:12]:
        expected = torch_nll(network, prompt, rest)
        assert abs(line["nll"] - expected) < 1e-5 * max(1.0, expected)
    score = sum(line["nll"] for line in lines) / sum(line["tokens"] for line in lines)
    assert answer.json["score"] == pytest.approx(score, rel=1e-6) and answer.json["n"] == len(rows)


def test_check_judges_two_folders_by_nats(tiny, kept, tmp_path):
    folder, _ = kept
    data = ("--original", tiny / "prose.txt", "--new", tiny / "chat.jsonl")
    answer = fft("check", tiny / "base", folder / "model", *data, "--max-drop", 0.1, "--out", tmp_path / "c", "--json")
    assert answer.code == 0 and answer.json["outcome"] == "pass"
    (original,) = answer.json["original"]
    assert original["change"]["metric"] == "nats" and original["heads"] == {"base": "unembed", "tuned": "unembed"}
    first = json.loads((tmp_path / "c" / "examples.jsonl").read_text().splitlines()[0])
    assert first["task"] == "original" and set(first["base"]) == {"nll", "right"} and first["tokens"] > 1
    worse = fft("check", folder / "model", tiny / "base", "--original", tiny / "chat.jsonl", "--json")
    assert worse.code == 1 and worse.json["outcome"] == "fail"
    assert worse.json["original"][0]["worse"], "rows whose loss grew are listed"


def test_check_shows_answers_of_the_length_that_is_named(tiny, kept):
    sides, chat = (tiny / "base", kept[0] / "model"), ("--original", tiny / "chat.jsonl", "--json")
    short, long = (
        fft("check", *sides, *chat, "--original.max-new", new).json["original"][0]["samples"] for new in (1, 3)
    )
    for brief, full in zip(short, long, strict=True):
        assert full["base"].startswith(brief["base"]) and len(brief["base"].split()) <= 1
    assert any(len(full["base"]) > len(brief["base"]) for brief, full in zip(short, long, strict=True))


def test_repair_and_diagnose_take_language_tasks(tiny, kept, tmp_path):
    folder, _ = kept
    base, data = tiny / "base", ("--original", tiny / "prose.txt")
    repaired = fft(
        "repair", base, folder, *data, "--new", tiny / "chat.jsonl", "--out", tmp_path / "r", "--also", "--json"
    )
    assert repaired.code == 0 and (tmp_path / "r" / "model" / "config.json").exists()
    diagnosed = fft("diagnose", base, folder, *data, "--fisher-rows", 16, "--out", tmp_path / "d", "--json")
    assert diagnosed.code == 0 and diagnosed.json["refit"] is None and diagnosed.json["change"]["metric"] == "nats"


def test_the_fisher_of_a_text_serves_ewc(tiny, tmp_path):
    measured = fft(
        "fisher", "--model", tiny / "base", "--original", tiny / "prose.txt", "--out", tmp_path / "f", "--json"
    )
    assert measured.code == 0 and measured.json["tasks"] == ["unembed"]
    flags = ("--method", "lora+ewc", "--ewc.fisher", tmp_path / "f", "--steps", 2, "--out", tmp_path / "run", "--json")
    answer = fft("tune", "--model", tiny / "base", "--new", tiny / "pairs.jsonl", *flags)
    assert answer.code == 0, answer.err


def test_a_new_classifier_while_text_is_held(tiny, tmp_path):
    rng = random.Random(1)
    rows = [f"{rng.choice(WORDS)} {rng.choice(WORDS)},{rng.choice(['yes', 'no'])}" for _ in range(60)]
    (tmp_path / "new.csv").write_text("\n".join(["text,label", *dict.fromkeys(rows)]) + "\n")
    data = ("--new", tmp_path / "new.csv", "--original", tiny / "prose.txt")
    answer = fft(
        "tune", "--model", tiny / "base", *data, "--method", "kl", "--steps", 3, "--out", tmp_path / "r", "--json"
    )
    assert answer.code in (0, 1, 4), answer.err
    record = plain(json.loads((tmp_path / "r" / "run.json").read_text()))
    assert record["original"]["metric"] == "nats" and record["new"]["metric"] == "accuracy"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--new.name", "mine"), "--new.name mine: a task that predicts tokens has no head of its own"),
        (("--original-head", "fit"), "--original-head fit"),
        (("--original.metric", "accuracy"), "metric 'accuracy' does not fit text: choose from nats"),
        (("--original.kind", "chat"), "no column 'messages'"),
        (("--method", "lpft"), "lpft trains a new head first"),
        (("--max-length", "999"), "max_length 999 is too large"),
        (
            ("--max-drop", "0.01", "--original.metric", "perplexity"),
            "--max-drop 0.01: a contract on a text task is in nats a token",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tiny, tmp_path, flags, message):
    data = ("--new", tiny / "chat.jsonl", "--original", tiny / "prose.txt")
    refused(fft("tune", "--model", tiny / "base", *data, *flags, "--out", tmp_path / "r"), message)
    assert not (tmp_path / "r").exists()


def test_a_budget_that_the_rows_cannot_show_is_refused_with_their_number(tiny, tmp_path):
    (tmp_path / "one.txt").write_text("good bad cat\n")
    write_jsonl(tmp_path / "answers.jsonl", [{"prompt": word, "answer": word} for word in WORDS])
    run = ("tune", "--model", tiny / "base", "--new", tiny / "chat.jsonl", "--out", tmp_path / "r")
    one = ("--original", tiny / "prose.txt", "--original.validation", tmp_path / "one.txt", "--max-drop", "0.02")
    refused(fft(*run, *one), "has 1 validation row; it takes at least 2 of them to see 0.02")
    write_jsonl(tmp_path / "more.jsonl", [{"prompt": f"{word} road", "answer": word} for word in WORDS])
    answers = ("--original", tmp_path / "more.jsonl", "--original.validation", tmp_path / "answers.jsonl")
    refused(fft(*run, *answers, "--max-drop", "0.01"), "has 12 validation rows; it takes at least 100 of them")


def test_a_model_without_a_language_head_cannot_learn_text(tiny, tmp_path):
    encoder = write_checkpoint(tmp_path / "bert")
    flags = ("--new", tiny / "chat.jsonl", "--out", tmp_path / "r")
    refused(fft("tune", "--model", encoder, *flags), "predicts masked tokens")


def test_a_template_of_a_file_that_fails_is_named(tiny, tmp_path):
    (tmp_path / "bad.jinja").write_text("{{ raise_exception('no') }}")
    flags = ("--new", tiny / "chat.jsonl", "--new.chat-template", tmp_path / "bad.jinja", "--out", tmp_path / "r")
    refused(fft("tune", "--model", tiny / "base", *flags), f"the chat template of {tmp_path / 'bad.jinja'} fails (")
    own = write_chat(tmp_path / "own", template="{{ raise_exception('no') }}")
    refused(fft("tune", "--model", own, "--new", tiny / "chat.jsonl", "--out", tmp_path / "r"), f"of {own} fails (")


def test_a_chat_needs_a_template(tiny, tmp_path):
    model = write_chat(tmp_path / "m", template=None)
    refused(
        fft("tune", "--model", model, "--new", tiny / "chat.jsonl", "--out", tmp_path / "r"),
        "for data, a template: --new.chat-template FILE",
    )


def test_data_shows_the_kind_and_one_row_with_its_mask(tiny):
    answer = fft("data", tiny / "chat.jsonl", "--model", tiny / "base", "--json")
    assert answer.json["kind"] == "chat" and answer.json["splits"]["train"]["labels"]["supervised"] > 0
    assert "⟦" in answer.json["shown"][-1] and np.all(
        ["kind of task" not in trouble for trouble in answer.json["troubles"]]
    )
    table = fft("data", tiny / "chat.jsonl", "--model", tiny / "base").out
    counts = answer.json["splits"]["train"]["labels"]
    assert f"{counts['tokens']:,}, {counts['supervised']:,} supervised" in " ".join(table.split()), table
    assert "labels" not in table and " tokens " in table
    assert fft("data", tiny / "prose.txt", "--json").json["kind"] == "text"
