"""Shared programs: equal settings give the same jitted function, other settings another one."""

import jax

from fft.core.programs import shared
from fft.evaluate.predictor import make_predict
from fft.fisher.squares import squares_of
from fft.methods import EWC, KL
from fft.models.families import bert
from fft.models.families.bert import BertConfig
from fft.models.model import build
from fft.tasks import Classify, Regress
from tests.helpers.toy import LayeredToy, Toy


def test_equal_arguments_share_and_others_do_not():
    calls = []

    @shared
    def make(*settings):
        calls.append(settings)
        return lambda: settings

    assert make(KL(strength=2.0)) is make(KL(strength=2.0)) is not make(KL(strength=3.0))
    assert make({"a": 1}) is not make({"a": 1}), "a dict cannot be hashed"
    assert Toy() == LayeredToy() and make(Toy()) is not make(LayeredToy()), "equal fields are not one class"
    assert len(calls) == 6


def test_a_type_error_of_the_builder_is_not_retried():
    calls = []

    @shared
    def make(method):
        calls.append(method)
        raise TypeError("no such program")

    try:
        make(EWC())
    except TypeError as error:
        assert str(error) == "no such program"
    assert len(calls) == 1


def test_equal_configs_share_a_model_and_equal_tasks_share_programs():
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model, other = (build(bert.FAMILY, BertConfig(**small)) for _ in range(2))
    assert model is other is not build(bert.FAMILY, BertConfig(**small, vocab_size=99))
    task = Classify("new", ("a", "b"))
    first, second = (make_predict(model, Classify("new", ("a", "b")), (16,)) for _ in range(2))
    assert first is not second, "each displays its own compilations"
    assert first.__wrapped__ is second.__wrapped__ is not make_predict(model, Regress("new")).__wrapped__
    settings = {"estimator": "mc", "draws": 2}
    assert squares_of(model, task, **settings) is squares_of(model, task, **settings)
    assert squares_of(model, task, **settings) is not squares_of(model, task, estimator="mc", draws=3)
    assert isinstance(first.__wrapped__, type(jax.jit(lambda: None)))
