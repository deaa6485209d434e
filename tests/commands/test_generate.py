"""`fft generate` on the command line: what it prints and writes, and what it refuses before anything is written."""

import json

import pytest

import fft as package
from tests.helpers.tiny_chat import write_chat
from tests.helpers.tiny_checkpoint import write_checkpoint
from tests.helpers.tiny_decoder import write_decoder
from tests.helpers.tiny_runs import fft, refused


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_chat(tmp_path_factory.mktemp("chat") / "m")


def test_texts_are_printed_and_returned(model):
    answer = fft("generate", model, "--prompt", "the good cat", "bad", "", "--max-new", 5, "--json")
    expected = package.generate(model, ["the good cat", "bad", ""], max_new=5)
    assert answer.code == 0 and answer.json == {"texts": expected.texts, "ids": expected.ids}
    printed = fft("generate", "--model", model, "--prompt", "the good cat", "bad", "", "--max-new", 5)
    assert printed.code == 0 and printed.out.splitlines()[-3:] == expected.texts


def test_prompts_of_a_file_and_chat(model, tmp_path):
    chat = [{"role": "user", "content": "the good cat"}]
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in ({"messages": chat}, {"prompt": "bad"}))
    )
    expected = package.generate(model, [chat, "bad"], max_new=5).ids
    assert fft("generate", model, "--task", tmp_path / "p.jsonl", "--max-new", 5, "--json").json["ids"] == expected
    answer = fft("generate", model, "--chat", "the good cat", "--max-new", 5, "--json")
    assert answer.json["ids"] == expected[:1]


def test_samples_are_written_as_rows(model, tmp_path):
    out, flags = tmp_path / "o.jsonl", ("--n", 3, "--temperature", 1, "--max-new", 4, "--seed", 7)
    answer = fft("generate", model, "--prompt", "the", "bad", *flags, "--out", out, "--json")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    expected = package.generate(model, ["the", "bad"], n=3, temperature=1, max_new=4, seed=7)
    assert answer.code == 0 and rows == [{"text": text} for text in expected.texts] and len(rows) == 6
    assert answer.json == {"texts": expected.texts, "ids": expected.ids}
    again = fft("generate", model, "--prompt", "the", "bad", *flags, "--batch-size", 1, "--json")
    assert again.json == answer.json


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "none is given"),
        (("--prompt", "a", "--task", "p.jsonl"), "--prompt and --task are given"),
        (("--prompt", "a", "--chat", "a"), "--prompt and --chat are given"),
        (("--prompt", "a", "--max-new", 999), "more than the"),
        (("--prompt", "a", "--max-new", 0), "--max-new must be"),
        (("--prompt", "a", "--temperature", -0.1), "--temperature must be at least 0"),
        (("--prompt", "a", "--temperature", 1, "--top-p", 0), "--top-p must be"),
        (("--prompt", "a", "--temperature", 1, "--top-p", 1.01), "--top-p must be"),
        (("--prompt", "a", "--n", 2), "has no effect at temperature 0"),
        (("--prompt", "a", "--out", "o.txt"), "ends in .jsonl"),
        (("--prompt", "a", "--out", "none/o.jsonl"), "does not exist: create it"),
        (("--task", "none.jsonl"), "no such file"),
    ],
)
def test_wrong_flags_write_nothing(model, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    out = () if "--out" in flags else ("--out", "o.jsonl")
    refused(fft("generate", model, *flags, *out), message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "write, flag, message",
    [
        (lambda folder: write_chat(folder, template=None), "--chat", "no chat template"),
        (
            lambda folder: write_chat(folder, template="{{ raise_exception('never') }}"),
            "--chat",
            "TemplateError: never",
        ),
        (lambda folder: write_checkpoint(folder), "--prompt", "predicts masked tokens, not the next one"),
        (lambda folder: write_decoder(folder), "--prompt", "has no language head"),
        (lambda folder: write_decoder(folder, tie_word_embeddings=True), "--prompt", "is a classifier"),
    ],
)
def test_wrong_models_write_nothing(tmp_path, write, flag, message):
    folder, out = tmp_path / "m", tmp_path / "o.jsonl"
    write(folder)
    refused(fft("generate", folder, flag, "the cat", "--out", out), message)
    assert not out.exists()
