"""Answer tasks: learned as completions or turns, scored by what the model writes, held to a budget."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import fft as package
from fft.data.tokenize import load_tokenizer
from tests.helpers.tiny_chat import TEMPLATE, write_chat, write_jsonl
from tests.helpers.tiny_checkpoint import POSITIONS, write_checkpoint
from tests.helpers.tiny_runs import fft, record, refused

WORDS = ["good", "bad", "cat", "dog", "bird", "road", "tree", "house"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A base that writes nonsense, prompts whose answer is their first word, as texts and as messages, and prose."""
    folder, rng = tmp_path_factory.mktemp("answers"), random.Random(0)
    write_chat(folder / "base")
    rows = [[rng.choice(WORDS[:4]), *rng.choices(WORDS, k=2)] for _ in range(200)]
    write_jsonl(folder / "asked.jsonl", [{"prompt": " ".join(words), "answer": f" {words[0]}"} for words in rows])
    chat = [
        {"messages": [{"role": "user", "content": " ".join(words)}], "answer": words[0], "id": at}
        for at, words in enumerate(rows)
    ]
    write_jsonl(folder / "chat.jsonl", chat)
    (folder / "prose.txt").write_text("\n\n".join(" ".join(rng.choices(WORDS, k=6)) for _ in range(120)))
    return folder


SHORT = ("--lr", "1e-2", "--epochs", 6, "--batch-size", 16, "--eval-every", 60, "--new.max-new", 4)


@pytest.fixture(scope="module")
def learned(tiny):
    flags = ("--model", tiny / "base", "--new", tiny / "chat.jsonl", "--original", tiny / "prose.txt")
    answer = fft("tune", *flags, *SHORT, "--method", "kl", "--kl.strength", "0.2", "--out", tiny / "run")
    assert answer.code in (0, 1, 4), answer.err
    return tiny / "run"


def test_a_finished_run_with_damaged_files(tiny, learned, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(learned, run)
    shutil.move(run / "model", tmp_path / "model")
    flags = ("--model", tiny / "base", "--new", tiny / "chat.jsonl", "--original", tiny / "prose.txt")
    again = fft("tune", *flags, *SHORT, "--method", "kl", "--kl.strength", "0.2", "--out", run)
    assert again.code in (0, 1, 4) and "model: " not in again.out and "report.html" in again.out, again
    shutil.move(tmp_path / "model", run / "model")
    content = record(run)
    (run / "run.json").write_text(json.dumps(content | {"experiment": None}))
    refused(fft("tune", *flags, *SHORT, "--method", "kl", "--kl.strength", "0.2", "--out", run), "object in experiment")
    refused(fft("compare", run), "run.json: expected an object in experiment, got None: restore the file")
    (run / "experiment.json").write_text("{}")
    refused(fft("eval", "--model", run, "--task", tiny / "chat.jsonl"), "experiment.json: expected an object in new")


def test_right_answers_are_learned(learned):
    told = record(learned)
    assert told["experiment"]["new"]["kind"] == "answer" and told["new"]["metric"] == "exact_match"
    assert told["new"]["before"] < 0.2 and told["new"]["after"] > 0.6 and told["new"]["mcnemar_p"] < 0.01
    assert told["original"]["metric"] == "nats" and told["original"]["after"] < 10


@pytest.mark.parametrize("name", ["chat.jsonl", "asked.jsonl"])
def test_eval_counts_what_transformers_writes(tiny, learned, tmp_path, name):
    model = learned / "model"
    flags = ("--task", tiny / name, "--held-out", "--task.max-new", 4, "--predictions", tmp_path / "p.jsonl")
    answer = fft("eval", "--model", model, *flags, "--samples", 2, "--json")
    assert answer.code == 0, answer.err
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (tiny / name).read_text().splitlines()]
    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    right = []
    for line in lines:
        row = rows[line["row"] - 1]
        ids = (
            tokenizer.apply_chat_template(row["messages"], add_generation_prompt=True)["input_ids"]
            if "messages" in row
            else tokenizer(row["prompt"])["input_ids"]
        )
        made = network.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=4, attention_mask=torch.ones(1, len(ids))
        )[0, len(ids) :].tolist()
        assert line["prompt"] == tokenizer.decode(ids) and line["expected"] == row["answer"].strip()
        assert line["answer"] == tokenizer.decode(made, skip_special_tokens=True).strip()
        assert line["truncated"] == (made[-1] != network.generation_config.eos_token_id)
        right.append(line["answer"] == row["answer"].strip())
        assert line["right"] == right[-1]
    assert answer.json["score"] == pytest.approx(np.mean(right)) and answer.json["metric"] == "exact_match"
    assert answer.json["truncated"] == np.mean([line["truncated"] for line in lines])
    assert answer.json["samples"] == lines[:2] and f"answer    {lines[0]['answer']!r}" in answer.err


def test_a_prompt_without_room_for_an_answer_is_no_sample(tiny, tmp_path):
    rows = [{"prompt": "good " * 50, "completion": "cat"}, {"prompt": "bad dog", "completion": " cat"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    flags = ("--model", tiny / "base", "--task", tmp_path / "rows.jsonl", "--samples", 2, "--json")
    for new, numbers in ((4, [1, 2]), (POSITIONS - 20, [2]), (POSITIONS, [])):
        answer = fft("eval", *flags, "--task.max-new", new)
        assert [sample["row"] for sample in answer.json.get("samples", [])] == numbers, answer.err


def test_the_samples_of_a_chat_task_have_the_length_that_is_named(tiny, learned):
    row = {"messages": [{"role": "user", "content": "good"}, {"role": "assistant", "content": "cat"}]}
    task = write_jsonl(tiny / "turns.jsonl", [row])
    flags = ("--model", tiny / "base", "--task", task, "--samples", 1, "--json")
    short, long = (fft("eval", *flags, "--task.max-new", new).json["samples"][0]["answer"] for new in (1, 5))
    assert long.startswith(short) and len(short.split()) < len(long.split())


def held(tiny):
    return ("--original", tiny / "chat.jsonl", "--original.max-new", 4)


@pytest.fixture(scope="module")
def kept(tiny, learned):
    short = ("--lr", "1e-2", "--epochs", 1, "--method", "kl", "--max-drop", "0.1", "--out", tiny / "kept")
    answer = fft("tune", "--model", learned / "model", "--new", tiny / "prose.txt", *held(tiny), *short)
    assert answer.code in (0, 1, 4), answer.err
    return tiny / "kept"


def test_answers_are_held_to_a_budget(kept):
    told = record(kept)
    assert told["contract"]["met"] and told["contract"]["margin"] == pytest.approx(0.1)
    assert told["original"]["metric"] == "exact_match" and told["original"]["after"] > 0.8


def test_check_compares_answers_and_predictions(tiny, learned, tmp_path):
    """Against the untrained base, so that the answers differ."""
    flags = ("--max-drop", "0.1", "--held-out", "--out", tmp_path, "--json")
    checked = fft("check", learned, tiny / "base", *held(tiny), *flags)
    assert checked.code == 1, checked.err
    (found,) = checked.json["original"]
    assert found["change"]["before"] > 0.8 > 0.2 > found["change"]["after"] and found["change"]["mcnemar_p"] < 0.01
    example, sample = found["worse"][0], found["samples"][0]
    assert example["label"] == example["base"] != example["tuned"] and isinstance(example["label"], str)
    assert len(found["samples"]) == 5 and sample["label"] in WORDS and sample["text"].startswith("<s>")
    assert "newly wrong" in checked.err and f"expected  {sample['label']}" in checked.err
    assert "label" not in checked.err and "lost" not in checked.err and "McNemar" in checked.err
    page = (tmp_path / "check.html").read_text()
    assert "Newly wrong" in page and "Answers to prompts of the original task" in page
    assert found["divergence"]["value"] == pytest.approx(kl_of_transformers(tiny, learned), rel=1e-4)


def kl_of_transformers(tiny, learned):
    """The mean KL(base || tuned) over the tokens of the held-out answers."""
    tokenizer = AutoTokenizer.from_pretrained(learned / "model")
    networks = [AutoModelForCausalLM.from_pretrained(folder) for folder in (learned / "model", tiny / "base")]
    flags = ("--task", tiny / "chat.jsonl", "--held-out", "--predictions", tiny / "p.jsonl")
    fft("eval", "--model", learned, *flags)
    found, rows = [], (tiny / "chat.jsonl").read_text().splitlines()
    for line in map(json.loads, (tiny / "p.jsonl").read_text().splitlines()):
        messages = json.loads(rows[line["row"] - 1])["messages"]
        said = [*messages, {"role": "assistant", "content": line["expected"]}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        ids = tokenizer.apply_chat_template(said)["input_ids"]
        with torch.no_grad():
            logp = [torch.log_softmax(net(torch.tensor([ids])).logits[0].double(), -1) for net in networks]
        places = slice(len(prompt) - 1, len(ids) - 1)
        found.append((logp[0].exp() * (logp[0] - logp[1])).sum(-1)[places])
    return torch.cat(found).mean().item()


def test_diagnose_and_repair_take_answers(tiny, learned, kept, tmp_path):
    told = fft("diagnose", learned, kept, *held(tiny), "--json", "--fisher-rows", 8, "--out", tmp_path / "d")
    assert told.code == 0 and told.json["change"]["metric"] == "exact_match", told.err
    new = ("--new", tiny / "prose.txt", "--max-drop", "0.2")
    repaired = fft("repair", learned, kept, *held(tiny), "--json", *new, "--out", tmp_path / "r")
    assert repaired.code in (0, 1, 4), repaired.err


def test_metrics_of_one_language_head_do_not_mix(tiny, learned):
    """The new and the original task are both predicted by the language head, and scored by different programs."""
    told = record(learned)
    evaluated = fft(
        "eval", "--model", learned, "--task", tiny / "prose.txt", "--held-out", "--max-length", 64, "--json"
    )
    assert told["original"]["after"] == pytest.approx(evaluated.json["score"], rel=1e-5)


def test_the_prompt_is_what_generation_sees(tiny, learned):
    """`fft.generate` writes the same answers."""
    rows = [json.loads(line) for line in (tiny / "chat.jsonl").read_text().splitlines()[:6]]
    made = package.generate(learned, [row["messages"] for row in rows], max_new=4)
    write_jsonl(tiny / "six.jsonl", rows)
    answer = fft(
        "eval", "--model", learned, "--task", tiny / "six.jsonl", "--task.max-new", 4, "--samples", 6, "--json"
    )
    tokenizer = load_tokenizer(learned / "model")
    texts = [tokenizer.backend.decode(ids).strip() for ids in made.ids]
    assert [line["answer"] for line in answer.json["samples"]] == texts


def test_bad_input_is_refused(tiny, tmp_path):
    asked = tiny / "asked.jsonl"
    two = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    cases = [
        (("--task", asked, "--metric", "number_match"), ("row 1", "has no number")),
        (("--task", asked, "--task.max-new", 1), ("has 2 tokens", "--new.max-new")),
        (("--task", asked, "--task.max-new", POSITIONS), ("the prompt in row", "positions of the model")),
        (("--task", asked, "--task.loss", "all"), ("only whole answers", "completion")),
        (("--task", asked, "--metric", "nats"), ("fits no task", "nats")),
        (("--task", write_jsonl(tmp_path / "n.jsonl", [{"prompt": "a"}]), "--task.kind", "answer"), ("no column",)),
        (("--task", write_jsonl(tmp_path / "e.jsonl", [{"prompt": "a", "answer": ""}])), ("row 1", "empty")),
        (
            (
                "--task",
                write_jsonl(tmp_path / "t.jsonl", [{"messages": two, "answer": "b"}]),
            ),
            ("row 1", "ends with a message of the assistant"),
        ),
    ]
    for flags, parts in cases:
        answer = fft("eval", "--model", tiny / "base", *flags)
        for part in parts:
            refused(answer, part)
    for answer, metric, part in (
        ("π", "exact_match", "cannot write"),
        ("</s>", "exact_match", "no text to compare with, as exact_match reads its tokens, '': give one\n"),
        ("the", "squad_match", "give one, or another metric, such as exact_match"),
        ("5", "number_match", "cannot write"),
    ):
        file = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "good cat", "answer": f" {answer}"}])
        refused(fft("eval", "--model", tiny / "base", "--task", file, "--metric", metric), part)
    encoder = write_checkpoint(tmp_path / "bert")
    refused(fft("eval", "--model", encoder, "--task", asked), "language head")
    refused(fft("eval", "--model", tiny / "base", "--task", tiny / "prose.txt", "--samples", 2), "has no prompts")


def test_another_chat_template_is_used_and_saved(tiny, tmp_path):
    source, template = tiny / "chat.jsonl", tmp_path / "short.jinja"
    text = "{% for message in messages %}{{ message['role'][0] }} {{ message['content'] }} </s>{% endfor %}"
    template.write_text(text + "{% if add_generation_prompt %}a {% endif %}")
    told = fft("data", source, "--model", tiny / "base", "--task.chat-template", template)
    assert told.code == 0 and "supervised tokens in ⟦ ⟧: 'u " in told.out, told  # without <s>
    flags = ("--new", source, "--new.chat-template", template, "--new.max-new", 4, "--method", "full", "--steps", 1)
    answer = fft("tune", "--model", tiny / "base", *flags, "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "model").chat_template == template.read_text()
    for name, content, problem in (
        ("missing.jinja", None, "there is no such file"),
        ("empty.jinja", b"", "the file is empty: give one with"),
        ("binary.jinja", b"\xff\xfe{{", "not valid UTF-8"),
        ("broken.jinja", b"{% for", "chat template of"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        refused(fft("data", source, "--model", tiny / "base", "--task.chat-template", tmp_path / name), problem)


def test_answers_that_cannot_be_right_as_given_are_noted(tiny, tmp_path):
    """A template that writes another answer, and an end token at which generation runs on."""
    reversing = TEMPLATE.replace("message['content'] }}", "message['content']|reverse }}")
    base = write_chat(tmp_path / "base", template=reversing, eos_token_id=5)
    answer = fft("eval", "--model", base, "--task", tiny / "chat.jsonl", "--task.max-new", 8, "--json")
    assert answer.code == 0, answer.err
    other, endless = answer.json["notes"]
    assert "200 answers are compared as" in other and "as the chat template" in other
    assert "200 answers end in '</s>'" in endless and "generation_config.json" in endless
