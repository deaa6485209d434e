"""Which checkpoints can be compared: those that compute one function of their parameters, however it is spelled."""

import pytest

from fft import models
from fft.after.pair import Side, differing, refuse_other_shape
from fft.core.errors import InputError
from tests.helpers import tiny_checkpoint
from tests.helpers.tiny_decoder import write_decoder

LINEAR = {"rope_type": "linear", "factor": 2.0}


@pytest.fixture
def side(tmp_path):
    """A function that returns a tiny model of a family with some fields of config.json changed."""

    def of(family, **fields):
        folder = tmp_path / f"{family}{len(list(tmp_path.iterdir()))}"
        write = write_decoder if family == "llama" else tiny_checkpoint.write_checkpoint
        write(folder, **({} if family == "llama" else {"family": family}), **fields)
        return Side(folder.name, models.load(folder))

    return of


@pytest.mark.parametrize(
    ("family", "fields", "others"),
    [
        ("llama", {"rope_parameters": {**LINEAR, "rope_theta": 5e5}}, {"rope_scaling": LINEAR, "rope_theta": 500_000}),
        ("llama", {"rope_parameters": LINEAR}, {"rope_scaling": {"type": "linear", "factor": 2}}),
        ("llama", {"num_key_value_heads": None, "head_dim": None}, {}),
        ("llama", {"attention_dropout": 0.1, "initializer_range": 0.1}, {}),
        ("llama", {"tie_word_embeddings": True}, {"tie_word_embeddings": False}),
        ("llama", {"pad_token_id": None}, {"pad_token_id": 1}),  # the token that begins texts, as fft writes it
        ("bert", {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.0}, {"classifier_dropout": 0.2}),
    ],
)
def test_spellings_and_dropout_do_not_matter(side, family, fields, others):
    refuse_other_shape(side(family, **fields), side(family, **others), "compared")


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("llama", {"rope_theta": 5e5}, r"attention\.0\.rope\.rope_theta is 10000.0 in llama0, 500000.0 in llama1"),
        ("llama", {"rope_scaling": LINEAR}, "rope_type is default in .*; attention.0.rope.factor is None in"),
        ("llama", {"rms_norm_eps": 1e-3}, "merged: epsilon is 1e-06 in llama0, 0.001 in llama1"),
        ("llama", {"pad_token_id": 2}, "pad is 0 in llama0, 2 in llama1"),
        ("roberta", {"pad_token_id": 2}, "pad_token_id is 1 in roberta0, 2 in roberta1"),
        ("bert", {"hidden_act": "relu"}, "activation is gelu in bert0, relu in bert1"),
    ],
)
def test_what_changes_numbers_is_named(side, family, fields, message):
    with pytest.raises(InputError, match=message) as refused:
        refuse_other_shape(side(family), side(family, **fields), "merged")
    assert len(str(refused.value)) < 250


def test_families_and_sizes_are_named(side):
    with pytest.raises(InputError, match="family is llama in llama0, bert in bert1"):
        refuse_other_shape(side("llama"), side("bert"), "compared")
    config = models.FAMILIES["gemma2"].config
    shapes = [config(num_hidden_layers=depth, sliding_window=window).shape for depth, window in ((3, 8), (4, 16))]
    assert list(differing("", *shapes)) == [("depth", 3, 4), ("attention.0.window", 8, 16)]


def test_a_run_s_model_is_compared_with_its_base_without_a_padding_id(side, tmp_path):
    base = side("llama", pad_token_id=None)
    saved = models.load(models.save(base.checkpoint, tmp_path / "saved"))
    assert (base.checkpoint.model.config.pad_token_id, saved.model.config.pad_token_id) == (None, 1)
    refuse_other_shape(base, Side("saved", saved), "compared")
