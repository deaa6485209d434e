"""The adapter of a run, put on its base without an export."""

import jax
import numpy as np
import pytest

import fft as package
from fft import models
from fft.core.errors import InputError
from fft.core.tree import flatten
from fft.run.adapted import adapted
from tests.helpers import tiny_checkpoint
from tests.helpers.tiny_runs import fft, record, tune


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_the_adapter_of_a_run_is_loaded_from_its_folder(method, tiny, tmp_path):
    quick = ("--steps", 4, "--batch-size", 16, "--lr", 1e-2, "--tolerance", 1, "--keep", "latest")
    assert tune(tiny, tmp_path / "run", *quick, "--method", method).code == 0
    base = models.load(tiny / "bert")
    found, expected = adapted(base, [tmp_path / "run"]), package.restore(tmp_path / "run")
    assert (found.primary, found.heads) == ("new", expected.heads)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    if method == "lora":
        half = adapted(base, [tmp_path / "run"], [0.5]).params
        for path, leaf in flatten(base.params).items():
            if not path.startswith("heads/"):
                middle = (leaf + flatten(expected.params)[path]) / 2
                np.testing.assert_allclose(flatten(half)[path], middle, atol=1e-6, err_msg=path)
        other = models.load(tiny_checkpoint.write_checkpoint(tmp_path / "other", seed=5))
        with pytest.raises(InputError, match=r"was trained from .*bert, which has other weights than .*other"):
            package.load_adapter(tmp_path / "run", other)


def test_eval_takes_the_folder_of_a_run_as_an_adapter_and_its_length(tiny, tmp_path):
    """As fft generate does: in place of the adapter that `fft export RUN --to peft` would write."""
    quick = ("--steps", 4, "--batch-size", 16, "--lr", 1e-2, "--tolerance", 1, "--keep", "latest", "--max-length", 5)
    assert tune(tiny, tmp_path / "run", *quick, "--method", "lora").code == 0
    flags = ("--model", tiny / "bert", "--adapter", tmp_path / "run", "--task", tiny / "new.csv", "--held-out")
    answer = fft("eval", *flags, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["score"] == pytest.approx(record(tmp_path / "run")["new"]["after"], abs=1e-9)
    assert any(note.startswith("texts are cut to 5 tokens, as in the training of ") for note in answer.json["notes"])
