"""Pseudo-rehearsal: masking, filling in, the choice of the filler, and the gradient of a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from fft import models
from fft.core.errors import InputError
from fft.core.tree import flatten
from fft.data import TrainBatches, load_tokenizer
from fft.data.encoded import Encoded
from fft.data.tokenize import special_ids
from fft.methods import KL, Full, Pseudo, Replay, chain
from fft.run.fillin import filled, find_filler, pseudo_rows
from fft.tasks.classify import Classify
from fft.training.state import init_state
from fft.training.step import make_train_step
from tests.helpers import tiny_checkpoint
from tests.helpers.tiny_checkpoint import MASK, rename_token, with_mask
from tests.helpers.tiny_runs import fft, record, refused
from tests.helpers.torch_language import masked_bert
from tests.helpers.toy import Toy, toy_batch, toy_params

ORIGINAL = Classify("original", ("negative", "positive"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(the base, a masked language model with its vocabulary, that model in torch)."""
    root = tmp_path_factory.mktemp("pseudo")
    base = with_mask(root / "base")
    size = len(tiny_checkpoint.vocabulary())
    model = masked_bert(size + 3, initializer_range=0.5)  # a table may have more rows than there are tokens
    model.save_pretrained(root / "filler")
    (root / "filler" / "tokenizer.json").write_text((base / "tokenizer.json").read_text())
    return base, root / "filler", model


def rows_of(folder, count=40, seed=0):
    """Texts of the tiny vocabulary, tokenized, in batches of 8."""
    texts = [text for text, _, _ in tiny_checkpoint.sentences(count, seed)]
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [np.array(backend.encode(text).ids, np.int32) for text in texts]
    numbers = np.arange(count)
    encoded = Encoded(ids, [np.zeros_like(row) for row in ids], np.zeros(count, np.int32), numbers)
    lengths = sorted({len(row) for row in ids})
    return TrainBatches(encoded, 8, 0, (lengths[0], lengths[-1]), 0)


def filled_in(folders, key=0, share=0.4, seen=None, batches=None):
    base, folder, _ = folders
    batches = batches or rows_of(base)
    filler = models.load(folder, language=True)
    seen = np.arange(len(batches.encoded.ids)) if seen is None else seen
    return batches, filled(filler, load_tokenizer(folder), batches, seen, share, jax.random.key(key))


# --- the filling in ---


def test_a_share_of_each_text_is_redrawn_and_special_tokens_never_are(folders):
    batches, result = filled_in(folders)
    special = special_ids(load_tokenizer(folders[0]))
    size = len(tiny_checkpoint.vocabulary())
    changed = 0
    for old, new in zip(batches.encoded.ids, result.encoded.ids, strict=True):
        kept = [i for i, token in enumerate(old) if token in special]
        assert (old[kept] == new[kept]).all() and 0 in kept and len(old) - 1 in kept
        words = len(old) - len(kept)
        moved = int((old != new).sum())
        assert moved <= max(1, round(0.4 * words)) and not special & set(new[old != new].tolist())
        assert new.max() < size, "the table has more rows than there are tokens"
        changed += moved
    assert result.changed == changed > 0.8 * result.masked
    assert result.masked == sum(max(1, round(0.4 * (len(row) - 2))) for row in batches.encoded.ids)
    assert result.tokens == sum(map(len, batches.encoded.ids))


def test_the_same_key_draws_the_same_and_a_rows_draws_are_its_own(folders):
    batches, result = filled_in(folders, key=3)
    again, other = filled_in(folders, key=3)[1], filled_in(folders, key=4)[1]
    some = filled_in(folders, key=3, seen=np.array([1, 5, 30]))[1]
    same = [
        all((a == b).all() for a, b in zip(result.encoded.ids, draw.encoded.ids, strict=True))
        for draw in (again, other)
    ]
    assert same == [True, False]
    for row, (old, new, alone) in enumerate(
        zip(batches.encoded.ids, result.encoded.ids, some.encoded.ids, strict=True)
    ):
        assert (alone == (new if row in (1, 5, 30) else old)).all(), row


def test_draws_follow_torchs_distribution_given_the_other_tokens(folders):
    """Frequencies of tokens drawn for one text, with one token masked each time, against torch's softmax."""
    base, _, model = folders
    single, times = rows_of(base, 1).encoded, 3000
    encoded = Encoded(single.ids * times, single.types * times, np.zeros(times, np.int32), np.arange(times))
    batches = TrainBatches(encoded, 8, 0, (len(single.ids[0]),), 0)
    result = filled_in(folders, share=0.01, batches=batches)[1]
    special = special_ids(load_tokenizer(base))
    size, ids = len(tiny_checkpoint.vocabulary()), single.ids[0]
    expected, words = np.zeros(size), [i for i, token in enumerate(ids) if token not in special]
    mask = Tokenizer.from_file(str(base / "tokenizer.json")).token_to_id(MASK)
    for place in words:
        masked = torch.tensor(np.where(np.arange(len(ids)) == place, mask, ids)).long()[None]
        with torch.no_grad():
            logits = model(masked).logits[0, place, :size]
        logits[list(special)] = -torch.inf
        expected += torch.softmax(logits, -1).numpy() / len(words)
    everything = np.concatenate(result.encoded.ids)
    counted = np.bincount(everything, minlength=size)
    rest = np.zeros(size)
    for place in words:  # tokens that were not masked
        rest[ids[place]] += times * (len(words) - 1) / len(words)
    seen = (counted - rest)[4:size] / times
    error = np.sqrt(expected * (1 - expected) / times)[4:size]
    slack = np.array(
        [3 / np.sqrt(times) if i in ids else 0.0 for i in range(4, size)]
    )  # the random choice of the masked place
    assert (np.abs(seen - expected[4:size]) <= 5 * error + slack + 1e-3).all()
    assert result.masked == times


def test_the_base_s_logits_are_those_of_the_filled_in_texts(folders):
    base, folder, _ = folders
    checkpoint, batches = models.load(base), rows_of(base)
    steps, key = 2, jax.random.key(9)
    rows = pseudo_rows(checkpoint, ORIGINAL, batches, steps, str(folder), 0.5, key)
    read = {int(row) for step in range(steps) for row in batches.rows(step)}
    theirs = transformers.BertForSequenceClassification.from_pretrained(base).eval()
    for row, old in enumerate(batches.encoded.ids):
        ids = rows.ids[row][: len(old)]
        assert (rows.ids[row][len(old) :] == 0).all()
        if row not in read:
            assert (ids == old).all() and (rows.logits[row] == 0).all()
            continue
        with torch.no_grad():
            expected = theirs(torch.tensor(ids).long()[None]).logits[0].numpy()
        np.testing.assert_allclose(rows.logits[row], expected, atol=1e-5 * max(1, np.abs(expected).max()))
    assert f"{len(read)} texts filled in by filler" in rows.notes[-1]


# --- the step ---


class Reading(Toy):
    """The toy model, which reads the rows of a table by their ids."""

    def states(self, params, batch, *, read=("pooled",), key=None, layers=()):
        table = jnp.asarray(np.random.default_rng(9).normal(size=(20, 4)), jnp.float32)
        return super().states(params, batch._replace(x=table[batch.ids].mean(1)))


def test_a_step_descends_the_divergence_on_the_pseudo_texts():
    """Against jax.grad of the objective written out, on the filled-in ids and not on those of the batch."""
    model, lr, rng = Reading(), 0.1, np.random.default_rng(0)
    new_task, kept = Classify("new", ("a", "b", "c")), Classify("original", ("x", "y", "z"))
    base, moved = (toy_params(seed, heads={"original": 3, "new": 3}) for seed in (0, 1))
    pseudo_ids = rng.integers(0, 20, (30, 7)).astype(np.int32)
    teacher = rng.normal(size=(30, 3)).astype(np.float32)
    new = toy_batch(1)._replace(ids=rng.integers(0, 20, (8, 3)).astype(np.int32))
    texts = toy_batch(2, rows=6, filler=1)._replace(
        ids=np.zeros((6, 5), np.int32), row=np.array([4, 29, 0, 7, 7, 11], np.int32)
    )
    method, tx = Pseudo(strength=0.6, temperature=2.0), optax.sgd(lr)
    step = make_train_step(model, new_task, method, tx, dict.fromkeys(flatten(base), 1.0), kept)
    aux = {"ids": jnp.asarray(pseudo_ids), "logits": jnp.asarray(teacher)}
    state = init_state(jax.tree.map(jnp.copy, moved), tx, jax.random.key(0))
    batch = {"new": jax.tree.map(lambda x: x[None], new), "unlabelled": jax.tree.map(lambda x: x[None], texts)}
    state, metrics = step(state, base, aux, batch)

    def objective(params, whole=True):
        logits = model.apply(params, new)["logits"]["new"]
        nll = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, new.targets))
        logits = model.apply(params, texts._replace(ids=pseudo_ids[texts.row, :5]))["logits"]["original"]
        p = jax.nn.softmax(teacher[texts.row] / 2.0)
        divergence = jnp.sum(p * (jnp.log(p) - jax.nn.log_softmax(logits / 2.0)), -1)
        term = 0.6 * 4.0 * jnp.sum(texts.weight * divergence) / jnp.sum(texts.weight)
        return whole * nll + term

    assert float(metrics["penalty"]) == pytest.approx(float(objective(moved, 0.0)), rel=1e-5)
    slope = flatten(jax.grad(objective)(moved))
    for path, leaf in flatten(state.theta).items():
        np.testing.assert_allclose(leaf, flatten(moved)[path] - lr * slope[path], atol=1e-6, err_msg=path)


def test_no_other_method_may_read_its_texts():
    with pytest.raises(InputError, match="pseudo replaces the unlabelled rows with its own, and kl reads"):
        chain(KL(on="unlabelled"), Pseudo())
    assert chain(Full(), Replay(), Pseudo(ratio=0.5)).streams == {"original": 1.0, "unlabelled": 0.5}


# --- which filler ---


def test_the_base_is_the_default_filler_and_unfit_fillers_are_rejected(folders, tmp_path):
    base, folder, _ = folders
    assert find_filler(None, folder) == folder
    with pytest.raises(InputError, match=r"no masked-language head.*Give --pseudo\.filler DIR, .*was tuned from"):
        find_filler(None, base)
    with pytest.raises(InputError, match="does not exist"):
        find_filler(str(tmp_path / "nowhere"), base)
    for name, change, message in (
        ("other", ("cat", "cow"), r"--pseudo\.filler .*token \d+ is 'cow' there and 'cat' in"),
        ("unmasked", (MASK, "##zz"), "no mask token, so nothing can be masked"),
    ):
        copy = tmp_path / name
        copy.mkdir()
        for path in folder.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        rename_token(copy, *change)
        ours = copy if name == "unmasked" else base
        with pytest.raises(InputError, match=message):
            find_filler(str(copy), ours)


def test_runs_with_a_filler_preserve_more_than_full_fine_tuning(folders, tiny, tmp_path):
    base, folder, _ = folders
    texts = tmp_path / "texts.txt"
    lines = (tiny / "original.csv").read_text().splitlines()[1:]
    texts.write_text("\n".join(line.rpartition(",")[0] for line in lines))
    given = ("--model", base, "--new", tiny / "opposite.csv", "--original", tiny / "original.csv", "--head", "shared")
    short = ("--steps", 12, "--batch-size", 16, "--lr", 3e-3, "--tolerance", 1, "--keep", "latest", "--eval-every", 12)
    pseudo = ("--method", "pseudo", "--pseudo.strength", 30, "--pseudo.ratio", 2, "--unlabelled", texts)
    full = fft("tune", *given, *short, "--method", "full", "--out", tmp_path / "full")
    distilled = fft("tune", *given, *short, *pseudo, "--pseudo.filler", folder, "--out", tmp_path / "pseudo")
    assert {full.code, distilled.code} <= {0, 1, 4}, distilled.err
    drops = [record(tmp_path / name)["history"] for name in ("full", "pseudo")]
    lost = [history[0]["original"] - history[-1]["original"] for history in drops]
    assert lost[1] < lost[0] - 0.1
    assert any("texts filled in by filler" in note for note in record(tmp_path / "pseudo")["notes"])
    kept = load_file(tmp_path / "pseudo" / "prepared" / "tensors.safetensors")
    assert kept["ids"].dtype == np.int32 and len(kept["ids"]) == len(kept["logits"])
    answer = fft("tune", *given, *short, *pseudo, "--out", tmp_path / "no")
    refused(answer, "Give --pseudo.filler DIR")
    assert not (tmp_path / "no").exists()
