"""The generation loop: greedy texts token for token as transformers', and samples from the filtered distribution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from fft import models
from fft.models.generate import NOTHING, Draw, programs, shaped
from tests.helpers.torch_decoders import PAD, VOCABULARY, texts
from tests.helpers.torch_language import DECODERS, make

PROMPTS, NEW = texts([9, 6, 2], tokens=9, left=True), 8


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A function that returns (torch model, our checkpoint) of a case."""

    @functools.cache
    def get(case):
        theirs, folder = make(case), tmp_path_factory.mktemp("theirs")
        theirs.save_pretrained(folder)
        return theirs, models.load(folder, language=True)

    return get


def keys_of(numbers, seed=0):
    key = jax.random.key(seed, impl="threefry2x32")
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(numbers))


def ours(checkpoint, prompts=PROMPTS, stops=(), temperature=0.0, top_p=1.0, numbers=(0, 1, 2), done=(), new=NEW):
    """Our answers [B, N], NOTHING after the end, and the number of tokens drawn."""
    draw = Draw(keys_of(numbers), np.float32(temperature), np.float32(top_p), np.array(stops, np.int32))
    prefill, finish = programs(checkpoint.model, temperature > 0)
    ended = np.isin(np.arange(len(prompts.ids)), done)
    begun = prefill(checkpoint.params, prompts.ids, prompts.mask, ended, draw, new=new)
    made = finish(checkpoint.params, begun, draw)
    return np.asarray(made.answers), int(made.step)


def theirs_of(theirs, stops=None, new=NEW):
    """Transformers' greedy answers [B, N], NOTHING after the end."""
    ids, mask = (torch.tensor(part).long() for part in (PROMPTS.ids, PROMPTS.mask))
    theirs.generation_config.eos_token_id = stops
    made = theirs.generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=new, pad_token_id=PAD, eos_token_id=stops
    )[:, ids.shape[1] :].numpy()
    answers = np.full((len(ids), new), NOTHING)
    for row, tokens in enumerate(made):
        ends = np.flatnonzero(np.isin(tokens, stops or []))
        tokens = tokens[: ends[0] + 1] if len(ends) else tokens
        answers[row, : len(tokens)] = tokens
    return answers


@pytest.mark.parametrize("case", DECODERS)
def test_greedy_texts_are_those_of_transformers(pair, case):
    theirs, checkpoint = pair(case)
    expected = theirs_of(theirs)
    found, steps = ours(checkpoint)
    np.testing.assert_array_equal(found, expected)
    assert steps == NEW and (found >= 0).all()

    stops = [int(expected[0, 2]), int(expected[1, 4])]  # random models hardly end by themselves
    ended = theirs_of(theirs, stops)
    found, steps = ours(checkpoint, stops=stops)
    np.testing.assert_array_equal(found, ended)
    assert (ended == NOTHING).any() and steps == (ended >= 0).sum(axis=1).max()


def test_the_loop_ends_with_the_last_row(pair):
    _, checkpoint = pair("llama")
    expected, _ = ours(checkpoint)
    stops = sorted({*expected[:, 1].tolist()})
    ends = np.argmax(np.isin(expected, stops), axis=1)  # 1, or 0 where a row begins with what another has second
    found, steps = ours(checkpoint, stops=stops)
    kept = np.arange(NEW) <= ends[:, None]
    assert steps == ends.max() + 1 < NEW and found.tolist() == np.where(kept, expected, NOTHING).tolist()
    found, steps = ours(checkpoint, done=[0, 1], stops=[expected[2, 0]])
    assert steps == 1 and found[2].tolist() == [expected[2, 0]] + [NOTHING] * (NEW - 1)
    assert (found[:2] == NOTHING).all()
    found, steps = ours(checkpoint, new=1)
    assert steps == 1 and found.tolist() == expected[:, :1].tolist()


@pytest.mark.parametrize("case", ["gemma2", "gpt2"])
def test_samples_are_drawn_from_uncached_logits_with_the_keys_of_their_row(pair, case):
    """The same draws by a plain loop over whole texts; and a row's sample is the same in another batch."""
    _, checkpoint = pair(case)
    model, params = checkpoint.model, checkpoint.params
    found, _ = ours(checkpoint, temperature=0.8, top_p=0.9)
    states = jax.jit(functools.partial(model.states, read=("tokens",)))
    text, mask = PROMPTS.ids, PROMPTS.mask
    for step in range(NEW):
        seen = states(params, PROMPTS._replace(ids=text, mask=mask, types=0 * text)).tokens[:, -1]
        logits = shaped(model.unembed(params, seen), np.float32(0.8), np.float32(0.9))
        drawn = [
            int(jax.random.categorical(jax.random.fold_in(key, step), row))
            for key, row in zip(keys_of((0, 1, 2)), logits, strict=True)
        ]
        assert found[:, step].tolist() == drawn
        text, mask = (
            np.concatenate([part, np.array([more]).T], axis=1) for part, more in ((text, drawn), (mask, [1] * 3))
        )
    alone = PROMPTS._replace(ids=PROMPTS.ids[1:2, 3:], mask=PROMPTS.mask[1:2, 3:])
    again, _ = ours(checkpoint, alone, temperature=0.8, top_p=0.9, numbers=[1])
    assert again[0].tolist() == found[1].tolist()
    other, _ = ours(checkpoint, temperature=0.8, top_p=0.9, numbers=(3, 4, 5))
    assert (other != found).any()


def filtered(logits, temperature, top_p):
    """The distribution that top-p leaves, by a plain loop in float64."""
    exponents = np.exp((logits - logits.max()) / temperature)
    probabilities = exponents / exponents.sum()
    kept, mass = np.zeros(len(logits)), 0.0
    for token in np.argsort(-probabilities):
        if mass >= top_p:
            break
        kept[token] = probabilities[token]
        mass += probabilities[token]
    return kept / kept.sum()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 0.999, 1.0])
def test_the_distribution(temperature, top_p):
    logits = np.random.default_rng(0).normal(0, 3, (4, VOCABULARY)).astype(np.float32)
    found = jax.nn.softmax(jax.jit(shaped)(logits, np.float32(temperature), np.float32(top_p)))
    for row in range(4):
        expected = filtered(logits[row].astype(np.float64), temperature, top_p)
        np.testing.assert_allclose(found[row], expected, atol=1e-5)
        assert ((found[row] > 0) == (expected > 0)).all() or top_p == 1  # tiny ones are 0 in float32


def test_extreme_settings_are_finite():
    logits = np.array([3.0, 2.0, -1e30, 2.0], np.float32)
    for temperature, top_p in ((1e-30, 1.0), (1e30, 0.5), (1e-30, 1e-9)):
        found = jax.nn.softmax(shaped(logits, np.float32(temperature), np.float32(top_p)))
        assert np.isfinite(found).all() and found.sum() == pytest.approx(1)
    assert shaped(logits, np.float32(1), np.float32(1)).tolist() == (logits - 3).tolist()


def test_top_p_keeps_transformers_tokens():
    from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

    logits = np.random.default_rng(1).normal(0, 2, (8, VOCABULARY)).astype(np.float32)
    for top_p in (0.2, 0.75, 0.97):
        scores = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(0.7)(None, torch.tensor(logits)))
        found = jax.nn.softmax(shaped(logits, np.float32(0.7), np.float32(top_p)))
        np.testing.assert_allclose(found, torch.softmax(scores, -1).numpy(), atol=1e-6)
