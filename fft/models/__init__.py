"""Encoders and decoders in flax, loaded from and saved as Hugging Face checkpoints; one pure Model type for all.

    checkpoint = models.load("path/to/minilm")
    outputs = checkpoint.model.apply(checkpoint.params, Inputs(ids, mask, types))

To add a family: a file in fft/models/families, a line in FAMILIES, its configs in the parity tests; see
docs/add_a_model.md.
"""

from collections.abc import Mapping
from pathlib import Path

from fft.core.computation import Computation
from fft.models import computed as computed_models
from fft.models.families import (
    bert,
    distilbert,
    gemma,
    gemma2,
    gemma3,
    gpt2,
    granite,
    llama,
    mistral,
    modernbert,
    olmo2,
    qwen2,
    qwen3,
    roberta,
    smollm3,
)
from fft.models.files import export, hf
from fft.models.files import source as sources
from fft.models.layers import Config
from fft.models.model import Checkpoint, Family, Head, Model

FAMILIES: dict[str, Family] = {
    "bert": bert.FAMILY,
    "roberta": roberta.FAMILY,
    "distilbert": distilbert.FAMILY,
    "modernbert": modernbert.FAMILY,
    "llama": llama.FAMILY,
    "mistral": mistral.FAMILY,
    "qwen2": qwen2.FAMILY,
    "qwen3": qwen3.FAMILY,
    "smollm3": smollm3.FAMILY,
    "gemma": gemma.FAMILY,
    "gemma2": gemma2.FAMILY,
    "gemma3_text": gemma3.FAMILY,
    "granite": granite.FAMILY,
    "olmo2": olmo2.FAMILY,
    "gpt2": gpt2.FAMILY,
}

__all__ = [
    "FAMILIES",
    "Checkpoint",
    "Head",
    "Model",
    "computed",
    "export_model",
    "find_folder",
    "find_masked",
    "has_head",
    "load",
    "load_causal",
    "predicts_next",
    "read_config",
    "save",
    "untied",
]


def load(source: str | Path, language: bool = False) -> Checkpoint:
    """Load a checkpoint from a Hugging Face folder, a GGUF file, `hf:OWNER/NAME` or `demo:NAME`.

    See fft.models.files.hf.load.
    """
    return hf.load(source, FAMILIES, language)


def load_causal(source: str | Path) -> Checkpoint:
    """Load a causal language model with its language head. See fft.models.files.hf.load_causal."""
    return hf.load_causal(source, FAMILIES)


def load_language(source: str | Path, pooled: bool = False) -> Checkpoint:
    """Load a causal or masked language model with its language head. See fft.models.files.hf.load_language."""
    return hf.load_language(source, FAMILIES, pooled)


def computed(checkpoint: Checkpoint, computation: Computation) -> Checkpoint:
    """Return the checkpoint with a model that computes as `computation` says. See fft.models.computed.computed."""
    return computed_models.computed(checkpoint, computation, FAMILIES)


def untied(checkpoint: Checkpoint) -> Checkpoint:
    """Return a tied language model with a language head of its own. See fft.models.computed.untied."""
    return computed_models.untied(checkpoint, FAMILIES)


def has_head(source: str | Path) -> bool:
    """Whether the checkpoint that `load(source)` would load has a head; reads no weights."""
    return hf.has_head(source, FAMILIES)


def predicts_next(source: str | Path) -> bool:
    """Whether the checkpoint is a causal language model; reads no weights. See fft.models.files.hf.predicts_next."""
    return hf.predicts_next(source, FAMILIES)


def read_config(source: str | Path) -> Config:
    """Return the config of a model; reads no weights. See fft.models.files.hf.read_family_config."""
    return hf.read_family_config(source, FAMILIES)


def find_masked(source: str | Path) -> Path:
    """Return the folder of a masked language model without loading it. See fft.models.files.hf.find_masked."""
    return hf.find_masked(source, FAMILIES)


def find_folder(source: str | Path) -> Path:
    """Return the folder that `load(source)` would read. See fft.models.files.source.find_folder."""
    return sources.find_folder(source, FAMILIES)


def export_model(source: str | Path, out: str | Path) -> Path:
    """Write the model of a GGUF file or of demo:NAME as a folder. See fft.models.files.source.export_model."""
    return sources.export_model(source, out, FAMILIES)


def save(
    checkpoint: Checkpoint,
    folder: str | Path,
    primary: str | None = None,
    shard_bytes: int = export.SHARD_BYTES,
    beside: Mapping[str, object] | None = None,
) -> Path:
    """Write a checkpoint as a Hugging Face folder and return its path. See fft.models.files.export.save."""
    return export.save(checkpoint, folder, FAMILIES, primary, shard_bytes, beside)
