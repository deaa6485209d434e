"""Read and write adapters in the format of Hugging Face's PEFT: adapter_config.json and adapter_model.safetensors.

Each peft_type has one file here and one line in FORMATS.
"""

from pathlib import Path

from fft import models
from fft.adapters import ia3, lora, norm, prompt, reading, writing
from fft.adapters.adapter import Adapter
from fft.adapters.layout import Formats
from fft.disk.local import local
from fft.methods import Method
from fft.models import Checkpoint

FORMATS: Formats = {
    "LORA": lora.FORMAT,
    "IA3": ia3.FORMAT,
    "PROMPT_TUNING": prompt.PROMPT,
    "P_TUNING": prompt.ENCODED,
    "PREFIX_TUNING": prompt.PREFIXES,
    "LN_TUNING": norm.FORMAT,
}

__all__ = ["FORMATS", "check_writable", "load_adapter", "load_base", "save_adapter"]


def load_adapter(folder: str | Path, base: Checkpoint) -> Adapter:
    """Load the Adapter in a PEFT folder, checked against the Checkpoint `base`. See fft.adapters.reading.load."""
    return reading.load(folder, base, FORMATS)


def load_base(source: str, adapter: str | Path) -> Checkpoint:
    """Load the base of the adapter in a folder: unless it is a classifier, with its language head for CAUSAL_LM, and
    for a causal language model where no task_type is stated, which PEFT does not ask for.

    Raises: as `fft.models.load`, and as `load_adapter` where the folder holds no adapter.
    """
    task = reading.read_raw(Path(local(adapter, "the adapter"))).get("task_type")
    language = task == "CAUSAL_LM" or (task is None and models.predicts_next(source))
    return models.load(source, language=language and not models.has_head(source))


def check_writable(method: Method, family: str) -> None:
    """Refuse a method that PEFT has no format for on a model family. See fft.adapters.writing.format_of."""
    writing.format_of(method, family, FORMATS)


def save_adapter(
    adapter: Adapter, base: Checkpoint, folder: str | Path, name: str, head: str | None = None
) -> str | Path:
    """Write an Adapter of the Checkpoint `base` in PEFT's format; return the folder. See fft.adapters.writing.save."""
    return writing.save(adapter, base, folder, name, FORMATS, head)
