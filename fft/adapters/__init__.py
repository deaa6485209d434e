"""Adapters in the files of Hugging Face's PEFT: adapter_config.json and adapter_model.safetensors, out and in.

A peft_type is one file here and one line in FORMATS.
"""

from fft.adapters import ia3, lora, norm, prompt, reading, writing

FORMATS = {
    "LORA": lora.FORMAT,
    "IA3": ia3.FORMAT,
    "PROMPT_TUNING": prompt.PROMPT,
    "PREFIX_TUNING": prompt.PREFIXES,
    "LN_TUNING": norm.FORMAT,
}

__all__ = ["FORMATS", "check_writable", "load_adapter", "save_adapter"]


def load_adapter(folder, base):
    """The Adapter in a folder of PEFT's, checked against the Checkpoint `base`. See fft.adapters.reading.load."""
    return reading.load(folder, base, FORMATS)


def check_writable(method, family):
    """Refuse a method that PEFT has no format for on a family. See fft.adapters.writing.format_of."""
    writing.format_of(method, family, FORMATS)


def save_adapter(adapter, base, folder, name, head=None):
    """Write an Adapter of the Checkpoint `base` as PEFT's files; returns the folder. See fft.adapters.writing.save."""
    return writing.save(adapter, base, folder, name, FORMATS, head)
