"""Write adapters: atomically, as a folder that `PeftModel.from_pretrained` loads onto the base."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from fft.adapters.adapter import Adapter
from fft.adapters.config import read_config
from fft.adapters.layout import Format, Formats, Layout, Leaves, layout_of
from fft.adapters.origin import origin_record
from fft.core.errors import InputError
from fft.core.tree import Params, flatten
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
    if head not in adapter.heads and not (head is None and base.language):
        raise InputError(f"the adapter has no head {head!r}; its heads are: {', '.join(adapter.heads) or 'none'}")
    kind, form = format_of(adapter.method, base.model.family, formats)
    layout = layout_of(base, FAMILIES[base.model.family], head, 0 if head is None else width(adapter.heads[head]))
    theta, before = as_arrays(adapter.theta), as_arrays(base.params)
    own = form.written(adapter.method, layout, before, theta)
    modules = saved_modules(layout, before, theta, own.paths, head)
    fields = {
        "peft_type": kind,
        "task_type": "SEQ_CLS" if head else "CAUSAL_LM" if base.language else "FEATURE_EXTRACTION",
        "base_model_name_or_path": name,
        "inference_mode": True,
        **own.fields,
        "modules_to_save": modules or None,
    }
    config, _ = read_config(form.config, fields, CONFIG)
    whole = layout.stored({**before, **theta}, [layout.names[name] for name in layout.within(config.saved)])
    tensors = {**own.tensors, **{form.prefix + name: value for name, value in whole.items()}}
    heads = {} if head is None else {head: adapter.heads[head]}
    with written_whole(folder) as partial:
        write_tensors({key: np.ascontiguousarray(value) for key, value in tensors.items()}, partial / WEIGHTS)
        write_json(partial / HEADS_JSON, {**write_record(heads, head, base.max_length), **origin_record(base)})
        write_json(partial / CONFIG, fields)
    return folder


def as_arrays(params: Params) -> dict[str, np.ndarray]:
    """Return {path: numpy array} of a parameter tree."""
    return {path: np.asarray(leaf) for path, leaf in flatten(params).items()}


def saved_modules(layout: Layout, base: Leaves, theta: Leaves, own: Collection[str], head: str | None) -> list[str]:
    """Return PEFT's modules_to_save: pooler and head, and the modules of changed leaves that are not `own`."""
    names = {path: name for name, path in layout.names.items()}
    rest = [path for path in theta if path not in own and not path.startswith(("heads/", "pooler/"))]
    changed = [path for path in rest if path not in base or not np.array_equal(theta[path], base[path])]
    modules = [layout.fused(names[path]).rpartition(".")[0] for path in changed]
    return list(dict.fromkeys([*(layout.saved_for_head() if head else ()), *modules]))


def format_of(method: Method, family: str, formats: Formats) -> tuple[str, Format[Any, Any]]:
    """Return (peft_type, Format) of a method on a family.

    Raises: InputError with the reason where PEFT has none.
    """
    for kind, form in formats.items():
        if type(method) in form.methods and family not in form.without:
            return kind, form
        if type(method) in form.methods:
            raise InputError(
                f"{method.name} on {family} cannot be saved as an adapter: PEFT computes no {kind} on "
                f"{' and '.join(form.without)}. Choose another method or model"
            )
    known = ", ".join(sorted(method.name for form in formats.values() for method in form.methods))
    raise InputError(
        f"{method.name} changes the base's own weights, which no PEFT adapter holds; --to peft writes {known}. "
        "Export the whole model with --to hf, or its difference from the base with --to lora --base BASE"
    )
