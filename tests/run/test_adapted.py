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
from tests.helpers.tiny_runs import tune


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
