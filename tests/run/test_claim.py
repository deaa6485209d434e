"""A run's folder belongs to one process at a time, also if another one claims it in between."""

import pytest

from fft.core.errors import InputError
from fft.data.settings import Data
from fft.experiment import Experiment
from fft.run.claim import RunFolder


def test_a_folder_that_another_process_claimed_after_it_was_entered_is_refused(tmp_path):
    experiment, out = Experiment("base", Data("new.csv")), tmp_path / "run"
    with RunFolder(out, experiment) as first, RunFolder(out, experiment) as second:  # neither has a folder to lock yet
        with first.claim({}):
            (out / "work").touch()
        with pytest.raises(InputError, match="is in use by process"), second.claim({}):
            pass
        assert (out / "work").exists() and (out / "experiment.json").exists()
