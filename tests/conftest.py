"""Fixtures of real weights and data: from the cache, fetched into it at first use, or a skip with the reason."""

import pytest

from fft.errors import MachineError


def _fetched(make):
    try:
        return make()
    except MachineError as error:
        pytest.skip(f"not in the cache: {error}")


@pytest.fixture(scope="session")
def minilm():
    """The Hugging Face folder of MiniLM."""
    from fft.tasks import demo

    return _fetched(demo.minilm_folder)


@pytest.fixture(scope="session")
def demo_data():
    """The tfds folder of the rated sentences."""
    from fft.tasks import demo

    return _fetched(demo.demo_data)
