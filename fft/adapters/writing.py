"""Adapters out: a folder that `PeftModel.from_pretrained` loads onto the base, whole or not at all."""

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
    """Write an adapter of `base` under PEFT's names and return the folder.

    Beside the method's own tensors stand, whole, BERT's pooler and the head `head` (default: the adapter's): PEFT's
    `modules_to_save`. `name` is the base's, for people and for PEFT's AutoPeftModel. HEADS_JSON keeps the labels, and
    the max_length of `base`.

    Raises: InputError for a method PEFT has no format for, an unknown head, a folder with other things in it.
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
        "modules_to_save": list(layout.above()),
    }
    config, _ = read_config(form.config, fields, CONFIG)
    places = [*form.tensors(config, layout), *layout.whole(form.prefix, config.saved)]
    tensors = {place.key: np.ascontiguousarray(place.theirs(np.asarray(leaves[place.path]))) for place in places}
    with written_whole(folder) as partial:
        write_tensors(tensors, partial / WEIGHTS)
        write_json(partial / HEADS_JSON, write_record({head: adapter.heads[head]}, head, base.max_length))
        write_json(partial / CONFIG, fields)
    return folder


def format_of(method: Method, family: str, formats: Formats) -> tuple[str, Format[Any, Any]]:
    """(peft_type, Format) of a method on a family; InputError with the reason where PEFT has none."""
    for kind, form in formats.items():
        if type(method) in form.methods and family in form.families:
            return kind, form
        if type(method) in form.methods:
            raise InputError(
                f"{method.name} on {family}: PEFT computes {kind} for {' and '.join(form.families)} only, so that no "
                "file could hold the result for others to load"
            )
    known = ", ".join(sorted(each.name for form in formats.values() for each in form.methods))
    raise InputError(
        f"{method.name} changes the base's own weights, which no PEFT adapter holds; --to peft writes {known}. "
        "Export the whole model with --to hf"
    )
