"""Write adapters: atomically, as a folder that `PeftModel.from_pretrained` loads onto the base."""

from pathlib import Path
from typing import Any

import numpy as np

from fft.adapters.adapter import Adapter
from fft.adapters.config import read_config
from fft.adapters.layout import Format, Formats, layout_of
from fft.core.errors import InputError
from fft.core.tree import flatten
from fft.disk.files import write_json
from fft.methods import Method
from fft.models import FAMILIES, Checkpoint
from fft.models.files.export import write_tensors, written_whole
from fft.models.files.heads import HEADS_JSON, width, write_record

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def save(
    adapter: Adapter,
    base: Checkpoint,
    folder: str | Path,
    name: str,
    formats: Formats,
    head: str | None = None,
) -> str | Path:
    """Write an adapter of `base` in PEFT's format and return the folder.

    BERT's pooler and the head `head` (default: the adapter's primary) are saved in full, as PEFT's `modules_to_save`.
    `name` is the base's, for readers and for PEFT's AutoPeftModel. HEADS_JSON holds the labels, and the max_length of
    `base`.

    Raises: InputError for a method that PEFT has no format for, an unknown head, and a folder with other files in it.
    """
    head = head or adapter.primary
    if head is None or head not in adapter.heads:
        raise InputError(f"the adapter has no head {head!r}; its heads are: {', '.join(adapter.heads) or 'none'}")
    kind, form = format_of(adapter.method, base.model.family, formats)
    layout = layout_of(FAMILIES[base.model.family], base.model.config, head, width(adapter.heads[head]))
    leaves = {**flatten(base.params), **flatten(adapter.theta)}
    fields = {
        "peft_type": kind,
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": name,
        "inference_mode": True,
        **form.describe(adapter.method, layout, flatten(adapter.theta)),
        "modules_to_save": list(layout.top_modules()),
    }
    config, _ = read_config(form.config, fields, CONFIG)
    places = [*form.tensors(config, layout), *layout.saved_modules(form.prefix, config.saved)]
    tensors = {place.key: np.ascontiguousarray(place.theirs(np.asarray(leaves[place.path]))) for place in places}
    with written_whole(folder) as partial:
        write_tensors(tensors, partial / WEIGHTS)
        write_json(partial / HEADS_JSON, write_record({head: adapter.heads[head]}, head, base.max_length))
        write_json(partial / CONFIG, fields)
    return folder


def format_of(method: Method, family: str, formats: Formats) -> tuple[str, Format[Any, Any]]:
    """Return (peft_type, Format) of a method on a family.

    Raises: InputError with the reason where PEFT has none.
    """
    for kind, form in formats.items():
        if type(method) in form.methods and family in form.families:
            return kind, form
        if type(method) in form.methods:
            raise InputError(
                f"{method.name} on {family} cannot be saved as an adapter: PEFT supports {kind} on "
                f"{' and '.join(form.families)} only. Choose another method, or one of these models"
            )
    known = ", ".join(sorted(method.name for form in formats.values() for method in form.methods))
    raise InputError(
        f"{method.name} changes the base's own weights, which no PEFT adapter holds; --to peft writes {known}. "
        "Export the whole model with --to hf"
    )
