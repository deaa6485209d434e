"""Encoders in flax with Hugging Face checkpoints in and out: load, save, and one pure Model for all families.

    checkpoint = models.load("path/to/minilm")
    outputs = checkpoint.model.apply(checkpoint.params, Inputs(ids, mask, types))

A family is one file here, one line in FAMILIES and its name in the parity test.
"""

from collections.abc import Mapping
from pathlib import Path

from fft.models.families import bert, distilbert, roberta
from fft.models.files import export, filler, hf
from fft.models.files.filler import Filler
from fft.models.model import Checkpoint, Family, Head, Model

FAMILIES: dict[str, Family] = {
    "bert": bert.FAMILY,
    "roberta": roberta.FAMILY,
    "distilbert": distilbert.FAMILY,
}

__all__ = ["FAMILIES", "Checkpoint", "Head", "Model", "find_filler", "has_head", "load", "load_filler", "save"]


def load(source: str | Path) -> Checkpoint:
    """The Checkpoint in a Hugging Face folder, or in `hf:OWNER/NAME` on the hub. See fft.models.files.hf.load."""
    return hf.load(source, FAMILIES)


def has_head(source: str | Path) -> bool:
    """Whether the checkpoint that `load(source)` reads has a head, without reading weights."""
    return hf.has_head(source, FAMILIES)


def find_filler(source: str | Path) -> Path:
    """The folder of a masked language model. See fft.models.files.filler.find."""
    return filler.find(source, FAMILIES)


def load_filler(source: str | Path) -> Filler:
    """The masked language model in a folder or `hf:NAME`. See fft.models.files.filler.load."""
    return filler.load(source, FAMILIES)


def save(
    checkpoint: Checkpoint,
    folder: str | Path,
    primary: str | None = None,
    shard_bytes: int = export.SHARD_BYTES,
    beside: Mapping[str, object] | None = None,
) -> Path:
    """Write a checkpoint as a Hugging Face folder and return its path. See fft.models.files.export.save."""
    return export.save(checkpoint, folder, FAMILIES, primary, shard_bytes, beside)
